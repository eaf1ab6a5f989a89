"""Latency parity: which candidates are compared in time, and the ratio of times that were taken in turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moir_edge.evaluation.candidates import TimedAnswer
from moir_edge.evaluation.parity.schema import BenchCandidate, PairKind, SpeedPair
from moir_edge.metrics.bootstrap import paired_ratio

__all__ = ["ENGINE_PROVIDERS", "speed_pairs"]

ENGINE_PROVIDERS = ("tensorrt",)
"""Providers of the runtime that run compiled engines."""


def speed_pairs(
    candidates: Sequence[BenchCandidate],
    timed: Sequence[Sequence[TimedAnswer] | None],
    *,
    seed: int,
) -> tuple[SpeedPair, ...]:
    """Compare each candidate with the first one, and further providers of a bundle with the bundle's first.

    Args:
        candidates: In the order in which they were given.
        timed: The answers of each, entry i of all taken in one turn; None where a candidate could not be measured.
        seed: Seed of the bootstrap.
    """
    return tuple(
        SpeedPair(
            kind=_kind(candidate, candidates[base]),
            candidate=candidate.name,
            baseline=candidates[base].name,
            ttft=paired_ratio(_ttft(timed[at]), _ttft(timed[base]), seed=seed),
            tpot=paired_ratio(_tpot(timed[at]), _tpot(timed[base]), seed=seed),
        )
        for at, candidate in enumerate(candidates)
        if (base := _baseline(candidates, at)) != at
    )


def _baseline(candidates: Sequence[BenchCandidate], at: int) -> int:
    """Return the place of what a candidate is compared with: its bundle's first provider, or the first candidate."""
    first = next(i for i, one in enumerate(candidates) if one.source == candidates[at].source)
    return first if first != at else 0


def _kind(candidate: BenchCandidate, baseline: BenchCandidate) -> PairKind:
    if candidate.source == baseline.source:
        if candidate.provider in ENGINE_PROVIDERS:
            return "engine against ONNX Runtime"
        return "provider against provider"
    return (
        "bundle against bundle" if candidate.target == baseline.target else "target against target"
    )


def _ttft(timed: Sequence[TimedAnswer] | None) -> list[float | None]:
    return [one.ttft_ms for one in timed or ()]


def _tpot(timed: Sequence[TimedAnswer] | None) -> list[float | None]:
    return [float(np.mean(one.token_ms)) if one.token_ms else None for one in timed or ()]
