from __future__ import annotations

import numpy as np
import pytest

from moir_edge.errors import ShapeError
from moir_edge.router.positions import prompt_positions


def test_positions_of_a_left_padded_batch() -> None:
    ids = [[1, 9, 9, 5, 6, 2], [0, 0, 1, 9, 7, 8]]
    mask = [[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]
    found = prompt_positions(ids, mask, 9, special_ids=[0, 1, 2])
    assert found.image_positions.tolist() == [[1, 2], [3, -1]]
    assert found.text_positions.tolist() == [[3, 4], [4, 5]]
    assert found.text_mask.tolist() == [[True, True], [True, True]]
    assert found.image_positions.dtype == found.text_positions.dtype == np.int64


def test_padding_is_excluded_even_where_its_id_is_not_special() -> None:
    found = prompt_positions([[5, 9, 5], [9, 0, 0]], [[1, 1, 1], [1, 0, 0]], 9, special_ids=[])
    assert found.text_positions.tolist() == [[0, 2], [0, 0]]
    assert found.text_mask.tolist() == [[True, True], [False, False]]


def test_widths_are_at_least_one() -> None:
    found = prompt_positions([[1, 2]], None, 9, special_ids=[1, 2])
    assert found.image_positions.tolist() == [[-1]]
    assert found.text_mask.tolist() == [[False]]


def test_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"input_ids \(1, 3\) and attention_mask \(1, 2\)"):
        prompt_positions([[1, 2, 3]], [[1, 1]], 9, special_ids=[])


IMAGE, MARK, NEWLINE, TWO_NEWLINES, PAD = 9, 2, 6, 7, 0


def positions_of_text(
    row: list[int], newlines: tuple[int, ...] = (NEWLINE, TWO_NEWLINES)
) -> list[int]:
    found = prompt_positions([row], None, IMAGE, [PAD, MARK], newlines)
    return [int(place) for place in found.text_positions[0][found.text_mask[0]]]


def test_newlines_between_tiles_are_no_text() -> None:
    # two rows of tiles, then the overview, then a question of two words and a newline
    row = [
        4,
        MARK,
        IMAGE,
        IMAGE,
        NEWLINE,
        MARK,
        IMAGE,
        TWO_NEWLINES,
        MARK,
        MARK,
        IMAGE,
        MARK,
        5,
        NEWLINE,
        8,
    ]
    assert positions_of_text(row) == [0, 12, 13, 14]
    assert positions_of_text(row, ()) == [0, 4, 7, 12, 13, 14]


def test_a_newline_beside_a_word_stays_text() -> None:
    assert positions_of_text([IMAGE, NEWLINE, 5, NEWLINE, IMAGE]) == [1, 2, 3]
    assert positions_of_text([NEWLINE, MARK, IMAGE, MARK, NEWLINE]) == [0, 4]
    assert positions_of_text([5, NEWLINE, MARK, NEWLINE, 8]) == [0, 1, 3, 4]
