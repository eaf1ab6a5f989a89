"""Degraded training rows: some pictures are blurred, some words or whole modalities are missing, so that the router learns what to do then."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from moir_edge.data.degradations import CLEAN, parse_degradation
from moir_edge.data.effects import CONTEXT_ABSENT
from moir_edge.data.rows import Row
from moir_edge.data.variants import ImageStore, degraded_rows
from moir_edge.tuning.data import TrainingRow

__all__ = ["CLEAN", "degraded_share"]


def degraded_share(
    rows: Sequence[Row],
    degradations: Sequence[str],
    share: float,
    folder: Path,
    *,
    seed: int,
    missing: Mapping[str, float] | None = None,
) -> list[TrainingRow]:
    """Degrade a share of the rows, each by one of the degradations; the others stay as they are.

    A row keeps its condition for the whole run, so that a resumed run sees the same rows.

    Args:
        rows: The rows.
        degradations: Each as `diagnose` reads it, such as ``"blur=3.4px"``.
        share: Of the rows, in (0, 1]; every entry of `degradations` comes up equally often.
        folder: For the changed images; made where something is degraded, in an existing folder.
        seed: Of the draw, the noise and the dropout.
        missing: `image-absent` or `context-absent` -> share of the rows that lack this; together at most 1. They are
            not degraded besides, and rows without a context cannot lack it.

    Returns:
        The rows in their order, each with its condition and its original.
    """
    conditions = [
        _missing(row, missing or {}, seed) or _condition(row, degradations, share, seed)
        for row in rows
    ]
    changed = list(rows)
    for degradation in sorted(set(conditions) - {CLEAN}):
        folder.mkdir(exist_ok=True)
        at = [i for i, condition in enumerate(conditions) if condition == degradation]
        variant = degraded_rows(
            [rows[i] for i in at], parse_degradation(degradation), ImageStore(folder), seed=seed
        )
        for i, row in zip(at, variant.rows, strict=True):
            changed[i] = row
    return [
        TrainingRow(row=row, original=original, condition=condition)
        for row, original, condition in zip(changed, rows, conditions, strict=True)
    ]


def _missing(row: Row, missing: Mapping[str, float], seed: int) -> str | None:
    """Return what a row lacks, or None; one draw, so that it lacks one thing at most."""
    draw = random.Random(f"{seed}:missing:{row.id}").random()
    for absent, rate in missing.items():
        if draw < rate:
            return None if absent == CONTEXT_ABSENT and not row.context else absent
        draw -= rate
    return None


def _condition(row: Row, degradations: Sequence[str], share: float, seed: int) -> str:
    draw = random.Random(f"{seed}:condition:{row.id}")
    return draw.choice(degradations) if degradations and draw.random() < share else CLEAN
