"""Paired differences between arms over seeds and rows, with intervals, and the claims that rest on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.study.runs import Run
from benchmarks.study.settings import StudySettings
from moir_edge.errors import DataError
from moir_edge.metrics import Interval
from moir_edge.metrics.bootstrap import RESAMPLES, interval_of

__all__ = [
    "CLEAN_LOSS",
    "DEGRADED_GAIN",
    "Claim",
    "claims",
    "difference",
    "mean_score",
    "row_scores",
]

Floats = npt.NDArray[np.float64]

DEGRADED_GAIN = 1.0
"""Points on degraded rows by which the router has to beat a control of its size."""
CLEAN_LOSS = -0.2
"""Points on clean rows that it may lose against the base."""

_CLEAN = "clean"
_SEED = 16


def row_scores(runs: Sequence[Run], conditions: Sequence[str]) -> Floats:
    """Return the score of every row in %, the mean over some conditions: (seeds, rows).

    Raises:
        DataError: The runs were not measured on the same rows.
    """
    if len({run.tasks for run in runs}) != 1:
        raise DataError(
            f"the runs of {runs[0].arm} were measured on different rows; remove them, and they are made again"
        )
    every = [[run.rows[condition] for condition in conditions] for run in runs]
    scores: Floats = 100 * np.asarray(every, np.float64).mean(axis=1)
    return scores


def mean_score(runs: Sequence[Run], conditions: Sequence[str]) -> Interval:
    """Return an arm's mean score in % with its interval over seeds and rows."""
    scores = row_scores(runs, conditions)
    resampled, value = _resampled([scores], runs[0].tasks)
    return interval_of(float(value[0]), resampled[0])


def difference(first: Sequence[Run], second: Sequence[Run], conditions: Sequence[str]) -> Interval:
    """Return by how many points one arm is ahead of another.

    Rows are drawn in pairs, within their task; the seeds of the two arms are drawn apart, because a seed of one has
    nothing to do with the same number at the other. A score is the mean of its tasks.

    Args:
        first: Runs of an arm, one a seed.
        second: Runs of the other, on the same rows.
        conditions: Whose mean is compared.

    Raises:
        DataError: They were not measured on the same rows.
    """
    if first[0].tasks != second[0].tasks:
        raise DataError(
            f"{first[0].arm} and {second[0].arm} were measured on different rows; remove the older runs"
        )
    arms = [row_scores(runs, conditions) for runs in (first, second)]
    resampled, value = _resampled(arms, first[0].tasks)
    return interval_of(float(value[0] - value[1]), resampled[0] - resampled[1])


def _resampled(arms: Sequence[Floats], tasks: Sequence[str]) -> tuple[Floats, Floats]:
    """Draw rows, the same for all arms, and seeds, each arm's own: (arms, resamples) and the plain means (arms,)."""
    generator = np.random.default_rng(_SEED)
    names = np.array(tasks)
    groups = [np.flatnonzero(names == task) for task in dict.fromkeys(tasks)]
    weights = np.zeros((RESAMPLES, len(tasks)))
    plain = np.zeros(len(tasks))
    for group in groups:
        share = 1 / (len(group) * len(groups))
        even = np.full(len(group), 1 / len(group))
        weights[:, group] = generator.multinomial(len(group), even, size=RESAMPLES) * share
        plain[group] = share
    drawn = []
    for scores in arms:
        seeds = len(scores)
        chosen = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
        drawn.append(((chosen @ scores) * weights).sum(axis=1))
    return np.stack(drawn), np.array([float(scores.mean(axis=0) @ plain) for scores in arms])


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim, and whether the figures bear it out.

    Attributes:
        text: The claim.
        rows: Arms whose rows of the table it rests on.
        found: The paired difference, in points.
        bound: Least difference that it asks for.
        needs_interval: Whether the interval has to lie above 0, too.
    """

    text: str
    rows: tuple[str, str]
    found: Interval
    bound: float
    needs_interval: bool

    @property
    def holds(self) -> bool:
        """Whether the difference is large enough, and, where asked for, told from luck."""
        return self.found.value >= self.bound and (self.found.low > 0 or not self.needs_interval)


def claims(
    router: Sequence[Run],
    base: Sequence[Run],
    controls: Sequence[Sequence[Run]],
    settings: StudySettings,
) -> tuple[Claim, ...]:
    """Hold the deciding router against every control of its size, and against the base on clean rows.

    Args:
        router: Runs of the router that decides.
        base: The run of the model as it is.
        controls: Runs of every control.
        settings: Name the degraded conditions.
    """
    degraded = (settings.blur, settings.dropout)
    beats = [
        Claim(
            text=f"beats `{runs[0].arm}` on degraded rows",
            rows=(router[0].arm, runs[0].arm),
            found=difference(router, runs, degraded),
            bound=DEGRADED_GAIN,
            needs_interval=True,
        )
        for runs in controls
    ]
    keeps = Claim(
        text="keeps clean rows",
        rows=(router[0].arm, base[0].arm),
        found=difference(router, base, (_CLEAN,)),
        bound=CLEAN_LOSS,
        needs_interval=False,
    )
    return (*beats, keeps)
