"""Scores of the demo's answers over the share of image tokens that is dropped, with intervals over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.pruning.candidates import CANDIDATES, RANDOM, SHARES, Candidate, answer
from moir_edge.data.answers import Answer
from moir_edge.data.pictures import row_images
from moir_edge.data.rows import Row
from moir_edge.metrics.bootstrap import interval_of, resampled_means
from moir_edge.metrics.records import Interval
from moir_edge.metrics.scores import METRICS, Scores, overall_recovery, row_scores
from moir_edge.progress import Progress
from moir_edge.runtime import EdgeModel
from moir_edge.runtime.processor import ModelInputs
from moir_edge.runtime.pruning import Pruning

__all__ = ["Variants", "measure_accuracy"]

_BATCH = 64
_MOST_TOKENS = 32
_SEED = 0
Variants = Sequence[Sequence[Row]]
"""Versions of the same rows, such as one for each degradation."""


def measure_accuracy(
    model: EdgeModel, conditions: Mapping[str, Variants], rows: Sequence[Row], progress: Progress
) -> list[dict[str, Any]]:
    """Answer all rows under every condition with every share and way to choose.

    Args:
        model: The demo's bundle.
        conditions: By name, the versions of the rows that are answered and joined.
        rows: What the answers are scored against.
        progress: Called as ``progress(stage, done, total)``.

    Returns:
        One record for each condition, candidate and share: the score in points, its recovery of the score on whole
        prompts, and the paired difference to random ones in points, each with `value`, `low` and `high`.
    """
    records = []
    for name, variants in conditions.items():
        batches = [_encoded(model, variant) for variant in variants]
        scored = list(rows) * len(variants)
        whole = _scores(model, batches, [None], rows)
        records.append(
            {"condition": name, "selector": None, "share": 0.0, **_points(scored, whole)}
        )
        total = len(SHARES) * len(CANDIDATES)
        for at, share in enumerate(SHARES):
            found: dict[str, Scores] = {}
            for number, (one, candidate) in enumerate(CANDIDATES.items()):
                progress(f"{name} rows", at * len(CANDIDATES) + number, total)
                found[one] = _mean_scores(model, batches, candidate, share, rows)
            records += [
                {
                    "condition": name,
                    "selector": one,
                    "share": share,
                    **_points(scored, own),
                    **_against(scored, own, whole, found[RANDOM]),
                }
                for one, own in found.items()
            ]
        progress(f"{name} rows", total, total)
    return records


def _encoded(model: EdgeModel, rows: Sequence[Row]) -> list[ModelInputs]:
    return [
        model.encode(
            [row.prompt for row in part],
            [row_images(row) for row in part],
            context=[row.context for row in part],
        )
        for part in (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))
    ]


def _mean_scores(
    model: EdgeModel,
    batches: Sequence[Sequence[ModelInputs]],
    candidate: Candidate,
    share: float,
    rows: Sequence[Row],
) -> Scores:
    """Return each row's score, the mean over the candidate's seeds."""
    return _scores(model, batches, list(candidate.prunings(share)), rows)


def _scores(
    model: EdgeModel,
    batches: Sequence[Sequence[ModelInputs]],
    prunings: Sequence[Pruning | None],
    rows: Sequence[Row],
) -> Scores:
    found: Scores = []
    for variant in batches:
        each = [
            row_scores(
                rows, [one for inputs in variant for one in _answers(model, inputs, pruning)]
            )
            for pruning in prunings
        ]
        found += [
            None if own[0] is None else float(np.mean([one for one in own if one is not None]))
            for own in zip(*each, strict=True)
        ]
    return found


def _answers(model: EdgeModel, inputs: ModelInputs, pruning: Pruning | None) -> list[Answer]:
    done = answer(model, inputs, pruning, most_tokens=_MOST_TOKENS)
    return [
        Answer(text=text.strip(), token_ids=ids)
        for text, ids in zip(done.texts, done.token_ids, strict=True)
    ]


def _points(rows: Sequence[Row], scores: Scores) -> dict[str, Any]:
    return {"score": _overall(rows, scores).model_dump(mode="json")}


def _against(rows: Sequence[Row], scores: Scores, whole: Scores, random: Scores) -> dict[str, Any]:
    recovery = overall_recovery(rows, scores, whole, seed=_SEED)
    over = [
        None if own is None or other is None else own - other
        for own, other in zip(scores, random, strict=True)
    ]
    return {
        "recovery": None if recovery is None else recovery.model_dump(mode="json"),
        "over_random": _overall(rows, over).model_dump(mode="json"),
    }


def _overall(rows: Sequence[Row], scores: Scores) -> Interval:
    """Return the mean of the tasks' means in points of 100; rows of a task are drawn on their own."""
    means, values = [], []
    for number, (task, (_, factor)) in enumerate(METRICS.items()):
        own = np.array(
            [
                factor * score
                for row, score in zip(rows, scores, strict=True)
                if row.task == task and score is not None
            ]
        )
        if own.size:
            values.append(float(own.mean()))
            means.append(resampled_means(own[None], (_SEED, number))[0])
    return interval_of(float(np.mean(values)), np.mean(means, axis=0))
