"""Gate bounds on latency and parity, and their results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field

from moir_edge.bundle import COMPONENTS
from moir_edge.evaluation.comparison.gates import overhead_figure
from moir_edge.evaluation.deciding import Evidence, Figure, gate_result
from moir_edge.evaluation.parity.schema import BenchCandidate, NumericParity, SpeedPair
from moir_edge.evaluation.records import GateResult
from moir_edge.fields import refuses_in_one_line
from moir_edge.metrics.agreement import NO_ROUTER
from moir_edge.metrics.records import PairedRatio

__all__ = ["BenchBounds", "check_bench_gates"]


@refuses_in_one_line
class BenchBounds(BaseModel):
    """Bounds of one run; None asks for nothing.

    Attributes:
        max_router_overhead: Most time that the router adds to the time to first token of any candidate, in %.
        max_slowdown: Most time that a candidate takes over its baseline's, to the first token and per further token,
            in %; negative demands a speed-up.
        max_abs_error: Largest absolute difference of any component.
        min_cosine: Least mean cosine of every component.
        min_token_agreement: Least share of prompts with the reference's exact answer, in %.
        min_index_agreement: Least share of the reference's sources that the router finds again, in %.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_router_overhead: float | None = None
    max_slowdown: float | None = Field(default=None, gt=-100)
    max_abs_error: float | None = Field(default=None, ge=0)
    min_cosine: float | None = Field(default=None, ge=-1, le=1)
    min_token_agreement: float | None = Field(default=None, ge=0, le=100)
    min_index_agreement: float | None = Field(default=None, ge=0, le=100)

    @property
    def on_numbers(self) -> bool:
        """Whether a bound is on numbers, which need a reference."""
        names = ("max_abs_error", "min_cosine", "min_token_agreement", "min_index_agreement")
        return any(getattr(self, name) is not None for name in names)

    @property
    def asks_for_parity(self) -> bool:
        """Whether a bound is on what only parity measures."""
        return self.on_numbers or self.max_slowdown is not None


def check_bench_gates(
    candidates: Sequence[BenchCandidate],
    pairs: Sequence[SpeedPair],
    bounds: BenchBounds,
    *,
    compared: Iterable[str],
    rounds: int,
) -> list[GateResult]:
    """Check every candidate and pair; a figure that could not be measured fails its gate.

    Args:
        candidates: All of them.
        pairs: Their comparisons in time.
        bounds: What to ask for.
        compared: Names of the candidates whose numbers are to be compared, measured or not.
        rounds: Rounds over the timed prompts that the times were taken in.
    """
    wanted = set(compared)
    results = [
        gate_result(candidate.name, figure, bound)
        for candidate in candidates
        for figure, bound in (
            *_router(candidate, bounds, rounds),
            *(_numbers(candidate, bounds) if candidate.name in wanted else ()),
        )
    ]
    answered = {candidate.name for candidate in candidates if _has_tpot(candidate)}
    return results + [
        gate_result(pair.candidate, figure, bound)
        for pair in pairs
        for figure, bound in _speed(pair, bounds, rounds, has_tpot=pair.baseline in answered)
    ]


def _router(
    candidate: BenchCandidate, bounds: BenchBounds, rounds: int
) -> Iterator[tuple[Figure, float]]:
    if bounds.max_router_overhead is None:
        return
    percent: float | None = None
    reason = None
    if candidate.reason is None and candidate.router is None:
        # No router, no cost; but one that got lost on the way is not a cheap one.
        lost = candidate.parity is not None and "router" in candidate.parity.missing
        percent, reason = (None, NO_ROUTER) if lost else (0.0, None)
    figure = overhead_figure(candidate.router, rounds, percent, reason)
    yield figure, bounds.max_router_overhead


def _numbers(candidate: BenchCandidate, bounds: BenchBounds) -> Iterator[tuple[Figure, float]]:
    parity = candidate.parity
    for component in COMPONENTS if parity is None else parity.expected():
        yield from _component(component, parity, bounds)
    if bounds.min_token_agreement is not None:
        same = 100 * parity.tokens.identical if parity else None
        yield Figure("token agreement", same, ">=", " %"), bounds.min_token_agreement
    if bounds.min_index_agreement is not None:
        for figure in _indices(parity):
            yield figure, bounds.min_index_agreement


def _indices(parity: NumericParity | None) -> Iterator[Figure]:
    """Yield the router's index agreement on the reference's inputs and in the whole chain."""
    alone = parity.component("router") if parity else None
    chain = parity.routing if parity else None
    reason = NO_ROUTER if parity and "router" in parity.missing else None
    own, whole = (_percent(one.index_agreement) if one else None for one in (alone, chain))
    if alone is not None and not alone.is_finite:
        own = math.nan
    if parity is not None and parity.routing_reason is not None:
        reason = parity.routing_reason
    yield Figure("router indices, same inputs", own, ">=", " %", reason)
    yield Figure("router indices, whole chain", whole, ">=", " %", reason)


def _component(
    name: str, parity: NumericParity | None, bounds: BenchBounds
) -> Iterator[tuple[Figure, float]]:
    one = parity.component(name) if parity else None
    reason = NO_ROUTER if parity and name == "router" and one is None else None
    error, cosine = (one.max_abs_error, one.cosine) if one else (None, None)
    if one is not None and not one.is_finite:
        error = cosine = math.nan
    if bounds.max_abs_error is not None:
        figure = Figure(f"{name} max abs error", error, "<=", "", reason)
        yield figure, bounds.max_abs_error
    if bounds.min_cosine is not None:
        yield Figure(f"{name} cosine", cosine, ">=", "", reason), bounds.min_cosine


def _speed(
    pair: SpeedPair, bounds: BenchBounds, rounds: int, *, has_tpot: bool
) -> Iterator[tuple[Figure, float]]:
    if bounds.max_slowdown is None:
        return
    against = f"against {pair.baseline}"
    yield _slowdown(f"TTFT slowdown {against}", pair.ttft, rounds), bounds.max_slowdown
    # Where the baseline's answers end with the first token too, there is no time per further token.
    if pair.tpot is not None or has_tpot:
        yield _slowdown(f"TPOT slowdown {against}", pair.tpot, rounds), bounds.max_slowdown


def _has_tpot(candidate: BenchCandidate) -> bool:
    return any(timing.tpot is not None for timing in candidate.timings)


def _slowdown(name: str, ratio: PairedRatio | None, rounds: int) -> Figure:
    if ratio is None:
        return Figure(name, None, "<=", " %")
    evidence = Evidence.in_percent(ratio, ratio.pairs, rounds, less=1)
    return Figure(name, 100 * (ratio.value - 1), "<=", " %", evidence=evidence)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
