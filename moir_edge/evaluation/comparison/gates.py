"""Gate bounds and their results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from moir_edge.evaluation.comparison.schema import CandidateReport
from moir_edge.evaluation.deciding import Evidence, Figure, gate_result
from moir_edge.evaluation.records import GateResult, RouterOverhead
from moir_edge.fields import refuses_in_one_line
from moir_edge.metrics.agreement import NO_ROUTER
from moir_edge.metrics.records import Interval

__all__ = ["GateBounds", "check_gates", "overhead_figure"]


@refuses_in_one_line
class GateBounds(BaseModel):
    """Bounds on every candidate but the reference; None asks for nothing.

    Attributes:
        min_recovery: Least mean recovery over the tasks, in %.
        min_task_recovery: Least recovery of every single task, in %.
        max_router_overhead: Most time that the router adds to the time to first token, in %.
        max_ttft_ratio: Largest time to first token over the reference's: median of the paired ratios.
        min_token_agreement: Least share of rows with the reference's exact token sequence, in %.
        gate_on: What the bounds on recovery bind: the `mean`, or the `low` end of its 95 % interval. The bounds on
            times always bind the interval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_recovery: float | None = Field(default=None, ge=0)
    min_task_recovery: float | None = Field(default=None, ge=0)
    max_router_overhead: float | None = None
    max_ttft_ratio: float | None = Field(default=None, gt=0)
    min_token_agreement: float | None = Field(default=None, ge=0, le=100)
    gate_on: Literal["mean", "low"] = "mean"


def check_gates(
    candidates: Sequence[CandidateReport], bounds: GateBounds, *, rounds: int
) -> list[GateResult]:
    """Check every candidate after the first; a figure that could not be measured fails its gate.

    Args:
        candidates: The reference first.
        bounds: What to ask for.
        rounds: Rounds over the timed rows that the times were taken in.
    """
    reference, *others = candidates
    return [
        gate_result(candidate.name, figure, bound)
        for candidate in others
        for figure, bound in (
            *_recoveries(candidate, reference, bounds),
            *_times(candidate, reference, bounds, rounds),
            *_agreement(candidate, bounds),
        )
    ]


def _recoveries(
    candidate: CandidateReport, reference: CandidateReport, bounds: GateBounds
) -> Iterator[tuple[Figure, float]]:
    if bounds.min_recovery is not None:
        rows = sum(one.rows for one in candidate.tasks.values() if one.recovery)
        yield _recovery("recovery", candidate.recovery, rows, bounds), bounds.min_recovery
    if bounds.min_task_recovery is not None:
        if not reference.tasks:
            yield Figure("recovery on any task", None, ">=", " %"), bounds.min_task_recovery
        for task in reference.tasks:
            figures = candidate.tasks.get(task)
            known, rows = (figures.recovery, figures.rows) if figures else (None, 0)
            figure = _recovery(f"recovery on {task}", known, rows, bounds)
            yield figure, bounds.min_task_recovery


def _recovery(name: str, recovery: Interval | None, rows: int, bounds: GateBounds) -> Figure:
    if recovery is None:
        return Figure(name, None, ">=", " %")
    evidence = Evidence.in_percent(recovery, rows) if bounds.gate_on == "low" else None
    return Figure(name, 100 * recovery.value, ">=", " %", evidence=evidence)


def _times(
    candidate: CandidateReport, reference: CandidateReport, bounds: GateBounds, rounds: int
) -> Iterator[tuple[Figure, float]]:
    if bounds.max_router_overhead is not None:
        yield _overhead(candidate, reference, rounds), bounds.max_router_overhead
    if bounds.max_ttft_ratio is not None:
        ratio = candidate.ttft_ratio
        value, evidence = (ratio.value, Evidence.of_ratio(ratio, rounds)) if ratio else (None, None)
        yield Figure("TTFT ratio", value, "<=", evidence=evidence), bounds.max_ttft_ratio


def _agreement(candidate: CandidateReport, bounds: GateBounds) -> Iterator[tuple[Figure, float]]:
    if bounds.min_token_agreement is not None:
        agreement = candidate.token_agreement
        percent = 100 * agreement.identical if agreement else None
        yield Figure("token agreement", percent, ">=", " %"), bounds.min_token_agreement


def _overhead(candidate: CandidateReport, reference: CandidateReport, rounds: int) -> Figure:
    if not candidate.has_router:
        # No router, no cost; but one that got lost on the way is not a cheap one.
        lost = reference.has_router
        return overhead_figure(None, rounds, *((None, NO_ROUTER) if lost else (0.0, None)))
    return overhead_figure(candidate.router_overhead, rounds)


def overhead_figure(
    measured: RouterOverhead | None,
    rounds: int,
    value: float | None = None,
    reason: str | None = None,
) -> Figure:
    """Return the router's overhead as a figure.

    Args:
        measured: None where it was not measured.
        rounds: Rounds that its pairs were taken in.
        value: What stands in for a figure that was not measured.
        reason: Why it was not measured.
    """
    if measured is None:
        return Figure("router overhead", value, "<=", " %", reason)
    evidence = Evidence.in_percent(measured.overhead, len(measured.on.samples), rounds)
    return Figure("router overhead", 100 * measured.overhead.value, "<=", " %", evidence=evidence)
