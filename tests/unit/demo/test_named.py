"""Rows whose object is named: true sentences, boxes around the object, and losses that take that object alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from moir_edge.data.rows import read_rows
from moir_edge.demo import write_jsonl
from moir_edge.demo.named import LOSSES, NamedRow, as_rows, lose, lost_rows, named_rows
from moir_edge.errors import DataError

_SENTENCE = re.compile(r"There is an? (\w+) (\d) at the ([a-z ]+)\.")
_BRIGHT = (
    120  # backgrounds stay under 85, and the brightest channel of each digit's colour is over 160
)


@pytest.fixture(scope="module")
def rows() -> list[NamedRow]:
    return named_rows("val", count=120, seed=5)


def region(row: NamedRow) -> tuple[slice, slice]:
    left, top, right, bottom = (round(96 * part) for part in row.named.box)
    return slice(top, bottom), slice(left, right)


def test_the_context_holds_the_answer_and_the_names(rows: list[NamedRow]) -> None:
    for row in rows:
        found = _SENTENCE.fullmatch(row.context or "")
        assert found is not None
        colour, digit, place = found.groups()
        assert row.named.words == {colour, digit, *place.split()}
        assert row.answers[0] in (colour, digit, place)
        # The prompt names the object by another attribute, and not by its answer.
        asked = set(row.prompt.rstrip("?").split())
        assert asked & row.named.words
        assert not asked & set(row.answers[0].split())
    assert {type_ for row in rows for type_ in [row.answers[0].isdigit()]} == {True, False}


def test_the_box_holds_a_digit_and_other_digits_stand_elsewhere(rows: list[NamedRow]) -> None:
    for row in rows:
        pixels = np.asarray(row.images[0])
        assert pixels[region(row)].max() > _BRIGHT
        rest = pixels.copy()
        rest[region(row)] = 0
        assert rest.max() > _BRIGHT


def test_rows_depend_on_split_seed_and_index_only(rows: list[NamedRow]) -> None:
    again = named_rows("val", count=3, seed=5)
    assert [one.prompt for one in again] == [one.prompt for one in rows[:3]]
    assert np.array_equal(np.asarray(again[2].images[0]), np.asarray(rows[2].images[0]))
    assert [one.context for one in named_rows("val", count=3)] != [one.context for one in again]
    assert named_rows("test", count=0) == []


@pytest.mark.parametrize("loss", ["mask", "blur"])
def test_a_lost_region_leaves_everything_else(rows: list[NamedRow], loss: str) -> None:
    for row in rows[:20]:
        same = lose(row, loss, 0.0)
        assert np.array_equal(np.asarray(same.images[0]), np.asarray(row.images[0]))
        spread = []
        for strength in (0.0, 0.25, 0.5, 1.0):
            lost = lose(row, loss, strength)
            assert (lost.context, lost.prompt, lost.named) == (row.context, row.prompt, row.named)
            old, new = np.asarray(row.images[0]), np.asarray(lost.images[0]).copy()
            spread.append(float(new[region(row)].std()))
            new[region(row)] = old[region(row)]
            assert np.array_equal(old, new)
        assert spread == sorted(spread, reverse=True)
    if loss == "mask":
        whole = np.asarray(lose(rows[0], loss, 1.0).images[0])[region(rows[0])]
        mean = np.asarray(rows[0].images[0])[region(rows[0])].mean(axis=(0, 1))
        assert np.abs(whole - mean).max() <= 0.5  # rounded to 8 bits


def test_lost_words_are_those_that_name_the_object(rows: list[NamedRow]) -> None:
    bare = [lose(row, "words", 1.0).context for row in rows]
    assert set(bare) == {"There is a at the"}
    assert lose(rows[0], "words", 0.0) == rows[0]
    half = [lose(row, "words", 0.5) for row in rows]
    more = [lose(row, "words", 0.8) for row in rows]
    counts = [len((one.context or "").split()) for one in (*half, *more)]
    assert sum(counts[: len(rows)]) > sum(counts[len(rows) :])
    for some, fewer in zip(half, more, strict=True):
        assert set((fewer.context or "").split()) <= set((some.context or "").split())
        assert (some.prompt, some.answers) == (fewer.prompt, fewer.answers)
    assert half != [lose(row, "words", 0.5, seed=1) for row in rows]


def test_bad_losses_are_one_sentence(rows: list[NamedRow]) -> None:
    assert LOSSES == ("mask", "blur", "words")
    with pytest.raises(DataError, match=r"unknown loss 'masks': did you mean 'mask'\?"):
        lose(rows[0], "masks", 0.5)
    with pytest.raises(DataError, match=r"loss blur: got strength 1\.5, expected 0 to 1"):
        lose(rows[0], "blur", 1.5)


def test_rows_become_questions_with_pictures_on_disk(rows: list[NamedRow], tmp_path: Path) -> None:
    written = as_rows(rows[:2], tmp_path / "new")
    assert [one.task for one in written] == ["vqa", "vqa"]
    assert written[0].text == f"{rows[0].context} {rows[0].prompt}"
    assert written[0].images[0].is_file()


def test_rows_to_train_on_lose_one_thing_each(rows: list[NamedRow], tmp_path: Path) -> None:
    lost = lost_rows("val", count=9, seed=5)
    for index, (whole, row) in enumerate(zip(rows, lost, strict=False)):
        same_picture = np.array_equal(np.asarray(whole.images[0]), np.asarray(row.images[0]))
        assert same_picture == (LOSSES[index % 3] == "words")
        assert row.context == whole.context or LOSSES[index % 3] == "words"
        assert (row.prompt, row.answers) == (whole.prompt, whole.answers)
    assert {row.context for row in lost[2::3]}.isdisjoint({row.context for row in rows[2:9:3]})
    written = read_rows(write_jsonl(lost, tmp_path))
    assert [(one.id, one.target) for one in written] == [(one.id, one.answers[0]) for one in lost]
