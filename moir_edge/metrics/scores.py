"""From answers to task scores, and from scores to recovery against the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from moir_edge.data.answers import Answer
from moir_edge.data.rows import Row
from moir_edge.metrics import (
    Interval,
    cider_d,
    mean_interval,
    ratio_interval,
    statement_accuracy,
    statement_consistency,
    vqa_accuracy,
)
from moir_edge.metrics.records import TaskFigures

__all__ = ["METRICS", "Scores", "overall_recovery", "row_scores", "task_figures"]

Scores = list[float | None]

METRICS: Mapping[str, tuple[str, float]] = {
    "vqa": ("VQA accuracy", 100.0),
    "statement": ("accuracy", 100.0),
    "caption": ("CIDEr-D", 1.0),
}
"""Task -> name of its metric, and what a row's score is multiplied by in reports."""

_PER_ROW: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "vqa": vqa_accuracy,
    "statement": statement_accuracy,
}


def row_scores(rows: Sequence[Row], answers: Sequence[Answer]) -> Scores:
    """Score every answer: vqa and statement in [0, 1], caption in [0, 10]; None where a row has no answers.

    The document frequencies of CIDEr-D come from the references of all caption rows given.

    Raises:
        ValueError: The lists differ in length.
    """
    scores: Scores = [
        _PER_ROW[row.task](answer.text, row.answers)
        if row.task in _PER_ROW and row.answers
        else None
        for row, answer in zip(rows, answers, strict=True)
    ]
    captions = [at for at, row in enumerate(rows) if row.task == "caption" and row.answers]
    texts = [answers[at].text for at in captions]
    for at, score in zip(
        captions, cider_d(texts, [rows[at].answers for at in captions]), strict=True
    ):
        scores[at] = score
    return scores


def task_figures(
    rows: Sequence[Row], scores: Scores, reference: Scores | None, *, seed: int
) -> dict[str, TaskFigures]:
    """Sum up the scores per task; tasks without a scored row are left out.

    Args:
        rows: The rows.
        scores: What `row_scores` gave.
        reference: The reference's scores, or None for the reference itself.
        seed: Seed of the bootstrap.
    """
    figures = {}
    for task, (metric, factor) in METRICS.items():
        at = [i for i, row in enumerate(rows) if row.task == task and scores[i] is not None]
        if not at:
            continue
        own = _at(scores, at)
        mean = mean_interval(own, seed=seed)
        figures[task] = TaskFigures(
            metric=metric,
            rows=len(at),
            score=factor * mean.value,
            low=factor * mean.low,
            high=factor * mean.high,
            consistency=_consistency(task, own, [rows[i].group for i in at]),
            recovery=None
            if reference is None
            else ratio_interval(own, _at(reference, at), seed=seed),
        )
    return figures


def overall_recovery(
    rows: Sequence[Row], scores: Scores, reference: Scores, *, seed: int
) -> Interval | None:
    """Return the unweighted mean of the tasks' recovery; its interval resamples each task on its own.

    Returns:
        None where no task has a recovery.
    """
    parts = []
    for task in METRICS:
        at = [i for i, row in enumerate(rows) if row.task == task and scores[i] is not None]
        part = ratio_interval(_at(scores, at), _at(reference, at), seed=seed) if at else None
        if part is not None:
            parts.append(part)
    if not parts:
        return None
    value = float(np.mean([part.value for part in parts]))
    # Tasks are independent samples, so their half widths add up like standard errors.
    below = float(np.sqrt(sum((p.value - p.low) ** 2 for p in parts))) / len(parts)
    above = float(np.sqrt(sum((p.high - p.value) ** 2 for p in parts))) / len(parts)
    return Interval(value=value, low=value - below, high=value + above)


def _consistency(task: str, scores: list[float], groups: list[str | None]) -> float | None:
    share = statement_consistency(scores, groups) if task == "statement" else None
    return None if share is None else 100 * share


def _at(scores: Scores, indices: Sequence[int]) -> list[float]:
    return [score for i in indices if (score := scores[i]) is not None]
