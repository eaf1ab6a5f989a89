from __future__ import annotations

from pathlib import Path

import pytest

from moir_edge.data.answers import Answer
from moir_edge.data.rows import Row
from moir_edge.metrics.scores import overall_recovery, row_scores, task_figures

EXACT = 1e-9  # means of a few doubles


def _row(task: str, *answers: str, group: str | None = None) -> Row:
    return Row(id="x", task=task, images=(Path("x.png"),), prompt="?", answers=answers, group=group)


ROWS = [
    _row("vqa", "red"),
    _row("vqa", "two"),
    _row("vqa"),
    _row("statement", "true", group="a"),
    _row("statement", "false", group="a"),
    _row("caption", "a red three"),
    _row("caption", "a blue two"),
]


def _answers(*texts: str) -> list[Answer]:
    return [Answer(text=text, token_ids=()) for text in texts]


RIGHT = _answers("red", "2", "anything", "True.", "false", "a red three", "a blue two")
WORSE = _answers("red", "3", "anything", "true", "true", "a red three", "a blue one")


def test_row_scores() -> None:
    assert row_scores(ROWS, RIGHT) == pytest.approx([1, 1, None, 1, 1, 7.5, 7.5], abs=EXACT)
    # the last caption shares "blue" and "a blue" with its reference, see test_cider
    assert row_scores(ROWS, WORSE) == pytest.approx([1, 0, None, 1, 0, 7.5, 2.5], abs=EXACT)


def test_figures_and_recovery_by_hand() -> None:
    base, scores = row_scores(ROWS, RIGHT), row_scores(ROWS, WORSE)
    figures = task_figures(ROWS, scores, base, seed=0)
    assert {task: one.score for task, one in figures.items()} == pytest.approx(
        {"vqa": 50.0, "statement": 50.0, "caption": 5.0}, abs=EXACT
    )
    assert figures["vqa"].rows == 2
    assert figures["statement"].consistency == 0.0
    recoveries = [100 * one.recovery.value for one in figures.values() if one.recovery]
    assert recoveries == pytest.approx([50.0, 50.0, 100 * 5 / 7.5], abs=EXACT)
    overall = overall_recovery(ROWS, scores, base, seed=0)
    assert overall is not None
    assert 100 * overall.value == pytest.approx((50 + 50 + 200 / 3) / 3, abs=EXACT)
    assert overall.low <= overall.value <= overall.high


def test_reference_has_no_recovery_and_zero_has_none() -> None:
    base = row_scores(ROWS, _answers(*[""] * 7))
    own = row_scores(ROWS, RIGHT)
    assert all(one.recovery is None for one in task_figures(ROWS, own, None, seed=0).values())
    assert all(one.recovery is None for one in task_figures(ROWS, own, base, seed=0).values())
    assert overall_recovery(ROWS, own, base, seed=0) is None
    assert overall_recovery(ROWS[2:3], [None], [None], seed=0) is None
