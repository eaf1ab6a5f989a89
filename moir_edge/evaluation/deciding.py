"""Hold a figure against its bound: passed, failed, or undecided where the figure's interval holds the bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from moir_edge.evaluation.records import GateResult
from moir_edge.finite import NOT_FINITE
from moir_edge.metrics.records import Interval, PairedRatio

__all__ = ["LEAST_SAMPLES", "Evidence", "Figure", "gate_result", "more_samples"]

Relation = Literal[">=", "<="]

LEAST_SAMPLES = 6
"""Fewest samples of a 95 % interval: all n lie on one side of the median with probability 2 · 0.5ⁿ, under 5 % from 6 on."""

_MOST_SAMPLES = 1_000_000  # further off than this, a number would only pretend that waiting helps


class Evidence(NamedTuple):
    """The 95 % interval of a figure, and what it was taken from.

    Attributes:
        low: Lower end, in the figure's unit.
        high: Upper end.
        samples: How many `counted` it was taken from.
        counted: `pairs` (of times taken in turns) or `rows` (of the data).
        rounds: Rounds over the timed rows that gave those pairs; None for rows.
    """

    low: float
    high: float
    samples: int
    counted: Literal["pairs", "rows"]
    rounds: int | None = None

    @classmethod
    def in_percent(
        cls, share: Interval, samples: int, rounds: int | None = None, *, less: float = 0.0
    ) -> Evidence:
        """Return the evidence of a share, in %; without `rounds` it was taken from rows.

        Args:
            share: The figure.
            samples: Rows or pairs.
            rounds: Rounds that gave the pairs.
            less: What is taken off first: 1 turns a ratio of times into a slowdown.
        """
        counted: Literal["pairs", "rows"] = "rows" if rounds is None else "pairs"
        low, high = (100 * (end - less) for end in (share.low, share.high))
        return cls(low, high, samples, counted, rounds)

    @classmethod
    def of_ratio(cls, ratio: PairedRatio, rounds: int) -> Evidence:
        """Return the evidence of a ratio of times."""
        return cls(ratio.low, ratio.high, ratio.pairs, "pairs", rounds)


class Figure(NamedTuple):
    """A figure that a bound is on.

    Attributes:
        name: How reports call it.
        value: None where it could not be measured; NaN or infinite where what was measured is not finite.
        relation: How the value must stand to its bound.
        unit: Written after value and bound.
        reason: Why there is no value; None says just that it was not measured.
        evidence: The interval that decides; None lets the value alone decide.
    """

    name: str
    value: float | None
    relation: Relation
    unit: str = ""
    reason: str | None = None
    evidence: Evidence | None = None


def gate_result(candidate: str, figure: Figure, bound: float) -> GateResult:
    """Hold a figure against its bound; one that could not be measured or is not finite fails.

    With `evidence`, the gate passes where the whole interval keeps the bound, fails where none of it does, and is
    undecided in between, or where there are fewer than `LEAST_SAMPLES`.
    """
    value, reason, evidence = figure.value, figure.reason, figure.evidence
    if not _is_finite(value, evidence):
        value, reason, evidence = None, NOT_FINITE, None
    more = None
    if value is None:
        outcome: Literal["passed", "failed", "undecided"] = "failed"
    elif evidence is None:
        outcome = "passed" if _keeps((value,), figure.relation, bound) else "failed"
    else:
        outcome = _outcome(figure.relation, evidence, bound)
        more = more_samples(value, evidence, bound) if outcome == "undecided" else None
    return GateResult(
        candidate=candidate,
        figure=figure.name,
        value=value,
        low=evidence.low if evidence else None,
        high=evidence.high if evidence else None,
        bound=bound,
        relation=figure.relation,
        unit=figure.unit,
        outcome=outcome,
        reason=reason,
        counted=evidence.counted if evidence else None,
        more=more,
        more_rounds=_rounds(more, evidence),
    )


def more_samples(value: float, evidence: Evidence, bound: float) -> int | None:
    """Estimate how many more samples move the interval's end past the bound, if the value stays where it is.

    The width of an interval shrinks with the square root of the number of samples. With n samples, h the distance from
    the value to the interval's end on the bound's side, and d the distance from the value to the bound, an interval of
    n′ = n · (h / d)² samples ends at the bound. The estimate is n′ − n, at least 1, and n′ at least `LEAST_SAMPLES`.

    Args:
        value: The figure.
        evidence: Its interval.
        bound: A bound inside the interval.

    Returns:
        The estimate; None where no useful number exists, because the value lies (nearly) at the bound.
    """
    samples, distance = evidence.samples, abs(value - bound)
    half_width = evidence.high - value if bound > value else value - evidence.low
    if half_width > distance * math.sqrt(_MOST_SAMPLES / samples):
        return None
    needed = samples * (half_width / distance) ** 2 if distance else 0.0
    # rounded first, so that 200.00000000001 samples are 200
    return max(math.ceil(round(needed, 6)), LEAST_SAMPLES, samples + 1) - samples


def _outcome(
    relation: Relation, evidence: Evidence, bound: float
) -> Literal["passed", "failed", "undecided"]:
    ends = (evidence.low, evidence.high)
    if evidence.samples < LEAST_SAMPLES:
        return "undecided"
    if _keeps(ends, relation, bound):
        return "passed"
    return "undecided" if any(_keeps((end,), relation, bound) for end in ends) else "failed"


def _keeps(values: Sequence[float], relation: Relation, bound: float) -> bool:
    return all(value >= bound if relation == ">=" else value <= bound for value in values)


def _is_finite(value: float | None, evidence: Evidence | None) -> bool:
    ends = (evidence.low, evidence.high) if evidence else ()
    return all(math.isfinite(one) for one in (value, *ends) if one is not None)


def _rounds(more: int | None, evidence: Evidence | None) -> int | None:
    """Return how many further rounds give `more` pairs."""
    if more is None or evidence is None or evidence.rounds is None:
        return None
    return math.ceil(more * evidence.rounds / evidence.samples)
