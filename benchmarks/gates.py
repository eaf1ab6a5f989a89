"""Bounds that a candidate must keep, and what came of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from moir_edge.benchmarks.agreement import NO_ROUTER
from moir_edge.benchmarks.schema import CandidateReport, GateResult
from moir_edge.finite import NOT_FINITE

__all__ = ["Figure", "GateBounds", "check_gates", "gate_result"]

Relation = Literal[">=", "<="]


class Figure(NamedTuple):
    """A figure that a bound is on.

    Attributes:
        name: How reports call it.
        value: None where it could not be measured; NaN or infinite where what was measured is not finite.
        relation: How the value must stand to its bound.
        unit: Written after value and bound.
        reason: Why there is no value; None says just that it was not measured.
    """

    name: str
    value: float | None
    relation: Relation
    unit: str = ""
    reason: str | None = None


class GateBounds(BaseModel):
    """Bounds on every candidate but the reference; None asks for nothing.

    Attributes:
        min_recovery: Least mean recovery over the tasks, in %.
        min_task_recovery: Least recovery of every single task, in %.
        max_router_overhead: Most time that the router adds to the time to first token, in %.
        max_ttft_ratio: Largest median time to first token over the reference's.
        min_token_agreement: Least share of rows with the reference's exact token sequence, in %.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_recovery: float | None = Field(default=None, ge=0)
    min_task_recovery: float | None = Field(default=None, ge=0)
    max_router_overhead: float | None = None
    max_ttft_ratio: float | None = Field(default=None, gt=0)
    min_token_agreement: float | None = Field(default=None, ge=0, le=100)


def check_gates(candidates: Sequence[CandidateReport], bounds: GateBounds) -> list[GateResult]:
    """Check every candidate after the first; a figure that could not be measured fails its gate.

    Args:
        candidates: The reference first.
        bounds: What to ask for.
    """
    reference, *others = candidates
    return [
        gate_result(candidate.name, figure, bound)
        for candidate in others
        for figure, bound in _figures(candidate, reference, bounds)
    ]


def _figures(
    candidate: CandidateReport, reference: CandidateReport, bounds: GateBounds
) -> Iterator[tuple[Figure, float]]:
    if bounds.min_recovery is not None:
        recovery = candidate.recovery.percent if candidate.recovery else None
        yield Figure("recovery", recovery, ">=", " %"), bounds.min_recovery
    if bounds.min_task_recovery is not None:
        for name, percent in _task_recoveries(candidate, reference):
            yield Figure(name, percent, ">=", " %"), bounds.min_task_recovery
    if bounds.max_router_overhead is not None:
        yield _overhead(candidate, reference), bounds.max_router_overhead
    if bounds.max_ttft_ratio is not None:
        ratio = candidate.ttft.median / reference.ttft.median
        yield Figure("TTFT ratio", ratio, "<="), bounds.max_ttft_ratio
    if bounds.min_token_agreement is not None:
        agreement = candidate.token_agreement
        percent = agreement.identical_percent if agreement else None
        yield Figure("token agreement", percent, ">=", " %"), bounds.min_token_agreement


def _task_recoveries(
    candidate: CandidateReport, reference: CandidateReport
) -> Iterator[tuple[str, float | None]]:
    """Yield the recovery on every task of the reference; one figure without a value where it has none."""
    if not reference.tasks:
        yield "recovery on any task", None
    for task in reference.tasks:
        figures = candidate.tasks.get(task)
        known = figures.recovery if figures else None
        yield f"recovery on {task}", known.percent if known else None


def _overhead(candidate: CandidateReport, reference: CandidateReport) -> Figure:
    measured = candidate.router_overhead
    percent, reason = measured.overhead.percent if measured else None, None
    if not candidate.has_router:
        # No router, no cost; but one that got lost on the way is not a cheap one.
        percent, reason = (None, NO_ROUTER) if reference.has_router else (0.0, None)
    return Figure("router overhead", percent, "<=", " %", reason)


def gate_result(candidate: str, figure: Figure, bound: float) -> GateResult:
    """Hold a figure against its bound; one that could not be measured or is not finite fails."""
    name, value, relation, unit, reason = figure
    if value is not None and not math.isfinite(value):
        value, reason = None, NOT_FINITE
    passed = value is not None and (value >= bound if relation == ">=" else value <= bound)
    return GateResult(
        candidate=candidate,
        figure=name,
        value=value,
        bound=bound,
        relation=relation,
        unit=unit,
        passed=passed,
        reason=reason,
    )
