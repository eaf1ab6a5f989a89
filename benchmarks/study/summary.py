"""From runs to the table: mean and standard deviation over seeds, and the targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from benchmarks.study.arms import Arm
from benchmarks.study.comparisons import difference
from benchmarks.study.runs import Run
from benchmarks.study.settings import StudySettings
from moir_edge.errors import DataError
from moir_edge.metrics import Interval

__all__ = ["ArmFigures", "Spread", "Target", "arm_figures", "targets"]

OVERALL = "overall"
CLEAN = "clean"

MIN_DEGRADED_GAIN = 2.0
MIN_CLEAN_GAIN = 0.0
MIN_DOMINANCE_FALL = 30.0


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n − 1) over seeds; one run has no deviation."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up one value per seed."""
        return cls(mean(values), stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True, kw_only=True)
class ArmFigures:
    """All figures of an arm.

    Attributes:
        arm: The arm.
        seeds: How many runs.
        parameters: Trained weights.
        scores: Condition -> `overall` or task -> score in % (captions: CIDEr-D).
        degraded: Mean of the overall scores under blur and under word dropout.
        degraded_gain: Paired difference to the base on degraded rows, in points; None for the base.
        clean_gain: The same on clean rows.
        share_image: Shapley share of the images.
        share_text: Shapley share of the text.
        dominance: |share_image − share_text|.
        mdi: Modality dominance index by layer.
    """

    arm: Arm
    seeds: int
    parameters: int
    scores: dict[str, dict[str, Spread]]
    degraded: Spread
    degraded_gain: Interval | None
    clean_gain: Interval | None
    share_image: Spread
    share_text: Spread
    dominance: Spread
    mdi: dict[str, Spread]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target of the study, and what came out."""

    name: str
    value: float
    bound: float
    unit: str

    @property
    def reached(self) -> bool:
        """Whether the value is at least the bound."""
        return self.value >= self.bound


def arm_figures(
    arm: Arm, runs: Sequence[Run], base: Sequence[Run], settings: StudySettings
) -> ArmFigures:
    """Sum up the runs of an arm, at least one, and hold them against the base's."""

    def gain(*conditions: str) -> Interval | None:
        return None if arm.train is None else difference(runs, base, conditions)

    def over(pick: Callable[[Run], float]) -> Spread:
        return Spread.of([pick(run) for run in runs])

    first = runs[0]
    return ArmFigures(
        arm=arm,
        seeds=len(runs),
        parameters=first.parameters,
        scores={
            condition: {
                task: over(lambda run, c=condition, t=task: run.scores[c][t])  # type: ignore[misc]
                for task in tasks
            }
            for condition, tasks in first.scores.items()
        },
        degraded=over(lambda run: _degraded(run, settings)),
        degraded_gain=gain(settings.blur, settings.dropout),
        clean_gain=gain(CLEAN),
        share_image=over(lambda run: _shares(run)[0]),
        share_text=over(lambda run: _shares(run)[1]),
        dominance=over(lambda run: abs(_shares(run)[0] - _shares(run)[1])),
        mdi={
            layer: over(lambda run, at=layer: run.mdi[at])  # type: ignore[misc]
            for layer in first.mdi
        },
    )


def targets(arm: ArmFigures, base: ArmFigures) -> tuple[Target, ...]:
    """Hold an arm's means against the study's targets."""
    clean = arm.scores[CLEAN][OVERALL].mean - base.scores[CLEAN][OVERALL].mean
    fall = 100 * (1 - arm.dominance.mean / base.dominance.mean)
    return (
        Target(
            name="degraded settings, mean of the two, against base",
            value=arm.degraded.mean - base.degraded.mean,
            bound=MIN_DEGRADED_GAIN,
            unit="points",
        ),
        Target(name="clean, against base", value=clean, bound=MIN_CLEAN_GAIN, unit="points"),
        Target(name="fall of dominance", value=fall, bound=MIN_DOMINANCE_FALL, unit="%"),
    )


def _shares(run: Run) -> tuple[float, float]:
    if run.share_image is None or run.share_text is None:
        raise DataError(f"{run.arm}, seed {run.seed}: the run has no shares; measure more rows")
    return run.share_image, run.share_text


def _degraded(run: Run, settings: StudySettings) -> float:
    return mean(run.scores[label][OVERALL] for label in (settings.blur, settings.dropout))
