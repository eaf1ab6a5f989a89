"""Bounds that a candidate must keep, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from moir_edge.benchmarks.schema import CandidateReport, GateResult

__all__ = ["Figure", "GateBounds", "check_gates", "gate_result"]

Relation = Literal[">=", "<="]
Figure = tuple[str, float | None, Relation, str]
"""Name, value (None where it could not be measured), relation to its bound, and unit."""


class GateBounds(BaseModel):
    """Bounds on every candidate but the reference; None asks for nothing.

    Attributes:
        min_recovery: Least mean recovery over the tasks, in %.
        min_task_recovery: Least recovery of every single task, in %.
        max_router_overhead: Most time that the router adds to the time to first token, in %.
        max_ttft_ratio: Largest median time to first token over the reference's.
        min_token_agreement: Least share of rows with the reference's exact token sequence, in %.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        yield ("recovery", recovery, ">=", " %"), bounds.min_recovery
    if bounds.min_task_recovery is not None:
        for task, figures in candidate.tasks.items():
            percent = figures.recovery.percent if figures.recovery else None
            yield (f"recovery on {task}", percent, ">=", " %"), bounds.min_task_recovery
    if bounds.max_router_overhead is not None:
        yield ("router overhead", _overhead(candidate), "<=", " %"), bounds.max_router_overhead
    if bounds.max_ttft_ratio is not None:
        ratio = candidate.ttft.median / reference.ttft.median
        yield ("TTFT ratio", ratio, "<=", ""), bounds.max_ttft_ratio
    if bounds.min_token_agreement is not None:
        agreement = candidate.token_agreement
        percent = agreement.identical_percent if agreement else None
        yield ("token agreement", percent, ">=", " %"), bounds.min_token_agreement


def _overhead(candidate: CandidateReport) -> float | None:
    if not candidate.has_router:
        return 0.0  # no router, no cost
    return candidate.router_overhead.overhead.percent if candidate.router_overhead else None


def gate_result(candidate: str, figure: Figure, bound: float) -> GateResult:
    """Hold a figure against its bound; one that could not be measured fails."""
    name, value, relation, unit = figure
    passed = value is not None and (value >= bound if relation == ">=" else value <= bound)
    return GateResult(
        candidate=candidate,
        figure=name,
        value=value,
        bound=bound,
        relation=relation,
        unit=unit,
        passed=passed,
    )
