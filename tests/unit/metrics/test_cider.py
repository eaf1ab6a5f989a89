"""CIDEr-D against values worked out by hand; log 2 cancels out of every cosine when the corpus has two rows."""

from __future__ import annotations

import math

import pytest

from moir_edge.errors import DataError
from moir_edge.metrics.cider import cider_d, tokenize_caption

# The bound of the issue; double precision leaves about 1e-14.
TOLERANCE = 1e-6


def test_identical_and_half_right_caption() -> None:
    scores = cider_d(["a red three", "a blue one"], [["a red three"], ["a blue two"]])
    # "a" is in both rows: idf 0. Row 1: cosine 1 for n = 1, 2, 3 and no 4-gram: 10 · 3/4.
    # Row 2, all other n-grams weigh log 2: n = 1: {blue, one}·{blue, two} = 1/2; n = 2: 1/2; n = 3: 0.
    assert scores == pytest.approx([7.5, 2.5], abs=TOLERANCE)


def test_clipping_and_length_penalty() -> None:
    scores = cider_d(["blue blue two", "red"], [["blue two"], ["red one"]])
    # Row 1, n = 1: (2, 1)·(1, 1) clipped to (1, 1)·(1, 1) = 2 over √5 √2; n = 2: 1 over √2.
    # Two bigrams against one: penalty exp(−1/72).
    first = 10 / 4 * (2 / math.sqrt(10) + 1 / math.sqrt(2)) * math.exp(-1 / 72)
    # Row 2: n = 1: 1/√2; no bigram against one: the same penalty.
    second = 10 / 4 / math.sqrt(2) * math.exp(-1 / 72)
    assert scores == pytest.approx([first, second], abs=TOLERANCE)


def test_document_frequency_counts_rows_not_captions() -> None:
    references = [["red one", "red one red"], ["red two"], ["green six"]]
    scores = cider_d(["red one", "", "green six"], references)
    # red: 2 of 3 rows; one, "red one": 1 of 3.
    red, rare = math.log(3 / 2), math.log(3)
    unigram = (2 * red * red + rare * rare) / (math.hypot(red, rare) * math.hypot(2 * red, rare))
    # The prediction holds red once, the second reference twice: min(red, 2 red) · 2 red.
    bigram = rare * rare / (rare * math.hypot(rare, rare))
    second_reference = (unigram + bigram) / 4 * math.exp(-1 / 72)
    assert scores[0] == pytest.approx(10 * (2 / 4 + second_reference) / 2, abs=TOLERANCE)
    assert scores[1] == 0.0
    assert scores[2] == pytest.approx(5.0, abs=TOLERANCE)


def test_one_row_has_no_information() -> None:
    assert cider_d(["a cat"], [["a cat"]]) == [0.0]


def test_bad_input() -> None:
    with pytest.raises(DataError, match="1 predictions for 2 reference lists"):
        cider_d(["a"], [["a"], ["b"]])
    with pytest.raises(DataError, match="at least one reference"):
        cider_d(["a"], [[]])


def test_tokenisation() -> None:
    assert tokenize_caption('A dog\u2019s two-story "House", it doesn\'t cost 3.5.') == [
        *("a", "dog", "'s", "two-story", "house", "it", "does", "n't", "cost", "3.5"),
    ]
    assert tokenize_caption("red,blue; GREEN") == ["red", "blue", "green"]
