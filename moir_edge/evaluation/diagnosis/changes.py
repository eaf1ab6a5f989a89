"""Differences of a candidate to the first one, with intervals over rows drawn in pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from moir_edge.evaluation.diagnosis.figures import (
    PERCEPTUAL_REQUESTS,
    SHAPLEY_REQUESTS,
    CandidateFigures,
)
from moir_edge.evaluation.diagnosis.perceptual import (
    FULL,
    IMAGE_PERMUTED,
    TEXT_PERMUTED,
    relative_fall,
)
from moir_edge.evaluation.diagnosis.schema import CLEAN
from moir_edge.evaluation.diagnosis.settings import DiagnoseSettings
from moir_edge.evaluation.diagnosis.shares import SHAPLEY_CONDITIONS, dominance, image_share
from moir_edge.evaluation.diagnosis.values import Statistic, ValueTable
from moir_edge.metrics.records import Interval

__all__ = ["candidate_changes"]

Floats = NDArray[np.float64]


def candidate_changes(
    own: CandidateFigures, reference: CandidateFigures, settings: DiagnoseSettings
) -> dict[str, dict[str, Interval]]:
    """Return the differences of one source's figures to the reference's.

    Args:
        own: The source.
        reference: The first source, asked the same.
        settings: Degradations to report, and the seed of the bootstrap.

    Returns:
        `overall` or a task -> `clean`, a degradation's label, `share_image`, `dominance`, `perceptual_image`,
        `perceptual_text` -> own figure minus the reference's. A figure that one of the two lacks is left out.
    """
    everything = [*range(len(own.plan.rows))]
    whole = _paired(own, reference, everything, settings.seed)
    found = {scope: _scores_and_shares(whole, scope, settings) for scope in whole.scopes}
    if own.plan.permutable:
        permuted = _paired(own, reference, own.plan.permutable, settings.seed)
        for scope in permuted.scopes:
            found[scope] |= _perceptual(permuted, scope)
    return found


def _paired(
    own: CandidateFigures, reference: CandidateFigures, rows: Sequence[int], seed: int
) -> ValueTable:
    """Put the scores of both sources on the chosen rows into one table."""
    scores = {
        f"{side} {request}": [units[at] for at in rows]
        for side, figures in (("own", own), ("reference", reference))
        for request, units in figures.units.items()
    }
    return ValueTable([own.plan.rows[at].task for at in rows], scores, seed=seed)


def _scores_and_shares(
    table: ValueTable, scope: str, settings: DiagnoseSettings
) -> dict[str, Interval]:
    shapley = [SHAPLEY_REQUESTS[name] for name in SHAPLEY_CONDITIONS]
    wanted: dict[str, tuple[Sequence[str], Statistic]] = {
        label: ([label], _only) for label in (CLEAN, *settings.degradations)
    }
    wanted["share_image"] = (shapley, image_share)
    wanted["dominance"] = (shapley, dominance)
    return _differences(table, scope, wanted)


def _perceptual(table: ValueTable, scope: str) -> dict[str, Interval]:
    full = PERCEPTUAL_REQUESTS[FULL]
    return _differences(
        table,
        scope,
        {
            "perceptual_image": ([full, PERCEPTUAL_REQUESTS[IMAGE_PERMUTED]], relative_fall),
            "perceptual_text": ([full, PERCEPTUAL_REQUESTS[TEXT_PERMUTED]], relative_fall),
        },
    )


def _differences(
    table: ValueTable, scope: str, wanted: dict[str, tuple[Sequence[str], Statistic]]
) -> dict[str, Interval]:
    found = {}
    for name, (requests, statistic) in wanted.items():
        both = [f"{side} {request}" for side in ("own", "reference") for request in requests]
        figure = table.figure(scope, both, _difference(statistic))
        if figure is not None:
            found[name] = figure
    return found


def _difference(statistic: Statistic) -> Callable[[Floats], Floats]:
    """Return own figure minus the reference's; the first half of the conditions is the source's own."""

    def difference(means: Floats) -> Floats:
        half = len(means) // 2
        return np.asarray(statistic(means[:half]) - statistic(means[half:]))

    return difference


def _only(means: Floats) -> Floats:
    return np.asarray(means[0])
