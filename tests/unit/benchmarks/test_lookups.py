"""Look-ups against a routing map whose sources are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.lookups import object_cells, score_lookups
from moir_edge.bundle import ImageGrid
from moir_edge.demo.named import NamedObject
from moir_edge.runtime import RoutingMap
from moir_edge.runtime.image_processor import View
from moir_edge.runtime.processor import EncodedPrompt

_TEXT = "<i><i><i><i> a red cup."
_OFFSETS = ((0, 3), (3, 6), (6, 9), (9, 12), (12, 14), (14, 18), (18, 22), (22, 23))
LEFT_COLUMN = NamedObject(box=(0.0, 0.0, 0.5, 1.0), words=frozenset({"red", "cup"}))


def routing(sources: dict[int, int]) -> RoutingMap:
    """Four cells (0 to 3 in reading order), then `a`, `red`, `cup`, `.`; token -> its best source."""
    indices = np.full((8, 1), -1)
    for token, source in sources.items():
        indices[token] = source
    return RoutingMap(
        prompt=EncodedPrompt(
            text=_TEXT, expanded=_TEXT, ids=(0,) * 8, offsets=_OFFSETS, images=((View(kind="whole"),),)
        ),
        grid=ImageGrid(side=2, cell=0.5),
        image_tokens=4,
        positions=np.arange(8),
        scores=np.full(8, 0.5, np.float32),
        indices=indices,
        margin=np.zeros(8, np.float32),
        gate=(indices[:, 0] >= 0).astype(np.float32),
    )  # fmt: skip


def test_words_that_name_the_object_and_no_others_count() -> None:
    found = routing({4: 1, 5: 0, 6: 3, 7: 2})
    assert object_cells(found, LEFT_COLUMN) == {0, 2}
    # `.` is written in one piece with `cup.`, so that it belongs to the word: two hits (0, 2) of three.
    words, cells = score_lookups([(found, LEFT_COLUMN)])
    assert (words.lookups, words.hits, words.chance) == (3, pytest.approx(2 / 3), 0.5)
    assert words.times_chance is not None
    assert words.times_chance.value == pytest.approx(4 / 3)
    assert (cells.lookups, cells.hits, cells.times_chance) == (0, None, None)


def test_cells_of_the_object_that_look_up_its_words() -> None:
    # Of the cells 0 and 2 of the object, 0 finds `red` and 2 finds `a`; cell 1 is another one's.
    words, cells = score_lookups([(routing({0: 5, 1: 6, 2: 4}), LEFT_COLUMN)])
    assert words.lookups == 0
    assert (cells.lookups, cells.hits, cells.chance) == (2, 0.5, 0.75)


def test_rows_count_by_their_look_ups() -> None:
    small = NamedObject(box=(0.0, 0.0, 0.5, 0.5), words=frozenset({"red"}))
    words, _ = score_lookups([(routing({5: 0}), small), (routing({5: 1, 6: 0, 7: 0}), LEFT_COLUMN)])
    assert (words.lookups, words.hits) == (4, 0.75)
    assert words.chance == pytest.approx((0.25 + 3 * 0.5) / 4)


def test_another_picture_of_the_prompt_does_not_count() -> None:
    elsewhere = NamedObject(image=1, box=(0.0, 0.0, 1.0, 1.0), words=frozenset({"red"}))
    words, _ = score_lookups([(routing({5: 0}), elsewhere)])
    assert (words.hits, words.chance, words.times_chance) == (0.0, 0.0, None)
