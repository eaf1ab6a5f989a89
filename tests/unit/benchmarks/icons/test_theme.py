"""Icons in the place of digits: true sentences in their own words, split by drawing."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.icons.theme import ICONS, NAMES, VARIANTS, load_icons, split_icons
from moir_edge.demo import demo_rows
from moir_edge.demo.named import lose, named_rows
from moir_edge.errors import DataError

from ...demo.oracle import answer_of, holds

_NAME = re.compile("|".join(NAMES))


def _as_digits(sentence: str) -> str:
    """Say the same about digits, which the oracle of the demo reads: the names number the digits."""
    named = _NAME.sub(lambda found: str(NAMES.index(found[0])), sentence)
    return named.replace("icon", "digit")


def test_every_answer_and_context_follows_from_the_scene() -> None:
    rows = demo_rows("val", count=240, theme=ICONS)
    for row in rows:
        assert "digit" not in f"{row.prompt} {row.context} {row.answers}"
        if row.task == "vqa":
            asked = answer_of(_as_digits(row.prompt), row.scenes[0])
            assert _as_digits(row.answers[0]) == asked, row.prompt
        elif row.task == "statement":
            assert row.answers == (str(holds(_as_digits(row.prompt), row.scenes)).lower(),)
        assert row.context is None or holds(_as_digits(row.context), row.scenes), row.id


def test_names_have_their_article() -> None:
    assert [ICONS.named(0), ICONS.named(5), ICONS.named(0, "red")] == [
        "an anchor", "a heart", "a red anchor",
    ]  # fmt: skip
    assert [ICONS.counted(1), ICONS.counted(2)] == ["1 icon", "2 icons"]


def test_no_drawing_crosses_splits() -> None:
    pictures = load_icons()
    drawings = []
    for split in ("train", "val", "test"):
        for name, chosen in enumerate(split_icons(split)):
            assert set(pictures.labels[list(chosen)]) == {name}
            drawings += sorted({index // VARIANTS for index in chosen})
    assert sorted(drawings) == list(range(len(pictures.labels) // VARIANTS))


def test_pictures_of_a_drawing_differ_and_stay_inside() -> None:
    alpha = load_icons().alpha
    first, second = alpha[0], alpha[1]
    assert np.abs(first - second).max() > 0.5
    # a rotated corner may touch the border of the square, but no ink is cut off there
    assert np.concatenate([alpha[:, 0], alpha[:, -1], alpha[..., 0], alpha[..., -1]]).mean() < 0.01
    assert 0.1 < alpha.mean() < 0.6


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(DataError, match=r"unknown split 'tset': did you mean 'test'\?"):
        split_icons("tset")


def test_rows_that_name_an_object_do_it_in_the_words_of_the_theme() -> None:
    rows = named_rows("val", count=40, theme=ICONS)
    for row in rows:
        assert row.named.words & set(NAMES)
        assert row.named.words <= set((row.context or "").rstrip(".").split())
        assert row.answers[0].split()[0] in row.named.words
    assert [lose(row, "words", 1.0).context for row in rows[:3]] != [
        row.context for row in rows[:3]
    ]
