from __future__ import annotations

import pytest

from moir_edge.errors import DataError
from moir_edge.metrics.vqa import normalize_answer, vqa_accuracy

# Sums of tenths and thirds in double precision.
TOLERANCE = 1e-12


@pytest.mark.parametrize(
    ("matches", "expected"),
    # Of the ten leave-one-out sets, `matches` miss one match: 3 matches give (3·2/3 + 7·1)/10 = 0.9.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_ten_human_answers(matches: int, expected: float) -> None:
    answers = ["red"] * matches + ["blue"] * (10 - matches)
    assert vqa_accuracy("Red", answers) == pytest.approx(expected, abs=TOLERANCE)


def test_fewer_than_ten_answers_are_alternatives() -> None:
    assert vqa_accuracy("a 3.", ["3"]) == 1.0
    assert vqa_accuracy("three", ["4", "3"]) == 1.0
    assert vqa_accuracy("5", ["4", "3"]) == 0.0
    with pytest.raises(DataError, match="at least one answer"):
        vqa_accuracy("5", [])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Red Car", "red car"),  # articles, case
        ("None", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("wouldntve", "wouldntve"),  # two apostrophes short: not in the official table
        ("wouldn'tve", "wouldn't've"),
        ("yalld've", "yalld've"),
        ("y'alld've", "y'all'd've"),
        ("ow's'at", "'ow's'at"),
        ("somebody'd", "somebodyd"),  # a slip of the official table, kept
        ("its", "its"),  # not in the official table
        ("T-shirt", "t shirt"),  # inside a word: a space
        ("yes, sir", "yes sir"),  # beside a space: dropped
        ("yes,sir", "yes sir"),
        ("1,000", "1000"),  # a comma between digits drops every mark
        ("1,000-ton", "1000ton"),
        ("3.5", "3.5"),
        ("U.S.", "us"),
        ("red.", "red"),
        ("what?!", "what"),
        (" two\nbirds\t", "2 birds"),
        ("the", ""),
    ],
)
def test_official_normalisation(answer: str, expected: str) -> None:
    assert normalize_answer(answer) == expected


def test_no_more_than_32_periods_are_dropped() -> None:
    assert normalize_answer("." * 34) == ".."
