from __future__ import annotations

import pytest

from moir_edge.errors import DataError
from moir_edge.metrics.statement import statement_accuracy, statement_consistency


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("true", 1.0),
        (" True.\n", 1.0),
        ('"TRUE"', 1.0),
        ("false", 0.0),
        ("it is true", 0.0),
        ("", 0.0),
    ],
)
def test_verdict_must_be_the_whole_answer(prediction: str, expected: float) -> None:
    assert statement_accuracy(prediction, ["true"]) == expected


def test_answers_are_alternatives_and_needed() -> None:
    assert statement_accuracy("yes", ["true", "Yes"]) == 1.0
    with pytest.raises(DataError, match="at least one answer"):
        statement_accuracy("yes", [])


def test_consistency_counts_whole_sentences() -> None:
    scores = [1.0, 1.0, 1.0, 0.0, 1.0]
    groups = ["a", "a", "b", "b", None]
    assert statement_consistency(scores, groups) == pytest.approx(0.5, abs=1e-12)  # exact halves
    assert statement_consistency([1.0], [None]) is None
    with pytest.raises(DataError, match="scores for"):
        statement_consistency([1.0], [])
