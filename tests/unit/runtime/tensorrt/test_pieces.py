"""A prompt is cut between blocks, never through one."""

from __future__ import annotations

import numpy as np
import pytest

from moir_edge.errors import DataError
from moir_edge.runtime.tensorrt.pieces import prompt_pieces


def stops(length: int, most: int, rows: list[list[int]] | None = None) -> list[int]:
    blocks = None if rows is None else np.array(rows)
    pieces = prompt_pieces(length, most, blocks)
    assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
    assert all(piece.stop - piece.start <= most for piece in pieces)
    return [piece.stop for piece in pieces]


def test_without_blocks_every_piece_but_the_last_is_full() -> None:
    assert stops(7, 3) == [3, 6, 7]
    assert stops(6, 3, [[-1] * 6]) == [3, 6]


def test_a_block_of_any_row_moves_the_cut_in_front_of_it() -> None:
    assert stops(7, 4, [[-1, -1, 0, 0, 0, -1, -1], [-1] * 7]) == [2, 6, 7]
    assert stops(6, 3, [[0, 0, 0, 1, 1, 1]]) == [3, 6]
    assert stops(4, 4, [[0, 0, 0, 0]]) == [4]


def test_a_block_that_no_piece_holds_is_refused_in_one_line() -> None:
    with pytest.raises(
        DataError, match="longer than the 3 tokens that the engine takes at once; short"
    ) as caught:
        stops(6, 3, [[-1, 0, 0, 0, 0, -1]])
    assert "\n" not in str(caught.value)
