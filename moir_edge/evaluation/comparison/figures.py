"""From raw measurements of one candidate to its part of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moir_edge.data.answers import Answer, RoutingRow
from moir_edge.data.rows import Row
from moir_edge.evaluation.candidates import TimedAnswer
from moir_edge.evaluation.comparison.schema import (
    COMPONENT_ORDER,
    CandidateReport,
    ChangedAnswer,
    RowResult,
)
from moir_edge.evaluation.measure import OverheadPairs, TimedCandidate
from moir_edge.evaluation.process import Measured
from moir_edge.evaluation.records import RouterOverhead, Samples
from moir_edge.metrics.agreement import compare_routing, token_agreement
from moir_edge.metrics.bootstrap import median_interval, paired_ratio
from moir_edge.metrics.records import PairedRatio
from moir_edge.metrics.scores import METRICS, Scores, overall_recovery, row_scores, task_figures

__all__ = [
    "RawResult",
    "candidate_report",
    "component_samples",
    "energy_samples",
    "router_overhead",
]

MAX_CHANGED = 50


@dataclass(frozen=True, kw_only=True)
class RawResult:
    """Everything that was measured on one candidate.

    Attributes:
        candidate: The candidate.
        times: Its raw times and peak memory.
        answers: One per row of the data.
        maps: Routing maps of the routing sample; None without a router.
    """

    candidate: Measured
    times: TimedCandidate
    answers: Sequence[Answer]
    maps: Sequence[RoutingRow] | None


def candidate_report(
    raw: RawResult, reference: RawResult | None, rows: Sequence[Row], *, seed: int
) -> CandidateReport:
    """Derive every figure of a candidate.

    Args:
        raw: Its measurements.
        reference: Those of the reference; None if this is the reference.
        rows: The data.
        seed: Seed of the bootstrap.
    """
    spec, loaded = raw.candidate.spec, raw.candidate.loaded
    scores = row_scores(rows, raw.answers)
    base = None if reference is None else row_scores(rows, reference.answers)
    token_ms = [ms for timed in raw.times.timed for ms in timed.token_ms]
    rates = [1000 * len(t.token_ms) / sum(t.token_ms) for t in raw.times.timed if t.token_ms]
    routing, reason = compare_routing(raw.maps, reference.maps) if reference else (None, None)
    return CandidateReport(
        name=spec.name,
        source=spec.source,
        kind=spec.kind,
        backend=loaded.facts.backend,
        precision=loaded.facts.precision,
        component_precisions=dict(loaded.facts.component_precisions),
        has_router=loaded.facts.has_router,
        weights_bytes=loaded.facts.weights_bytes,
        load_seconds=loaded.load_seconds,
        peak_memory_bytes=raw.times.peak_memory_bytes,
        libraries_memory_bytes=loaded.libraries_memory_bytes,
        ttft=Samples.of([timed.ttft_ms for timed in raw.times.timed], "ms"),
        ttft_ratio=_ttft_ratio(raw, reference, seed),
        tpot=Samples.of(token_ms, "ms") if token_ms else None,
        decode_rate=Samples.of(rates, "tokens/s") if rates else None,
        components=component_samples(raw.times.timed),
        energy=energy_samples(raw.times.timed),
        router_overhead=router_overhead(raw.times.overhead, seed=seed),
        tasks=task_figures(rows, scores, base, seed=seed),
        recovery=None if base is None else overall_recovery(rows, scores, base, seed=seed),
        token_agreement=token_agreement(raw.answers, reference.answers) if reference else None,
        routing=routing,
        routing_reason=reason,
        changed=_changed(rows, raw, scores, reference, base),
        rows=_row_results(rows, raw.answers, scores),
    )


def router_overhead(pairs: OverheadPairs | None, *, seed: int) -> RouterOverhead | None:
    """Compare paired times to first token with the router on and off; None without a router.

    Args:
        pairs: At least one pair; None without a router.
        seed: Seed of the bootstrap over pairs.
    """
    if pairs is None:
        return None
    on = np.array([timed.ttft_ms for timed in pairs.on])
    off = np.array([timed.ttft_ms for timed in pairs.off])

    def overhead(at: NDArray[np.int64]) -> NDArray[np.float64]:
        # Medians, because one interrupted run would move a mean by more than the router costs.
        return np.asarray(np.median((on - off)[at], axis=-1) / np.median(off[at], axis=-1))

    inside = [t.component_ms["router"] / t.ttft_ms for t in pairs.on if "router" in t.component_ms]
    return RouterOverhead(
        on=Samples.of(on.tolist(), "ms"),
        off=Samples.of(off.tolist(), "ms"),
        overhead=median_interval(overhead, on.size, seed=seed),
        component_share=float(np.median(inside)) if inside else None,
    )


def _ttft_ratio(raw: RawResult, reference: RawResult | None, seed: int) -> PairedRatio | None:
    if reference is None:
        return None
    own, base = ([one.ttft_ms for one in result.times.timed] for result in (raw, reference))
    return paired_ratio(own, base, seed=seed)


def component_samples(timed: Sequence[TimedAnswer]) -> dict[str, Samples]:
    """Return the parts of TTFT in the order in which they run."""
    names = {name for one in timed for name in one.component_ms}
    return {
        name: Samples.of([one.component_ms.get(name, 0.0) for one in timed], "ms")
        for name in COMPONENT_ORDER
        if name in names
    }


def energy_samples(timed: Sequence[TimedAnswer]) -> Samples | None:
    """Return the energy of each answer; None where the machine has no sensor."""
    joules = [one.energy_j for one in timed if one.energy_j is not None]
    return Samples.of(joules, "J") if joules else None


def _changed(
    rows: Sequence[Row],
    raw: RawResult,
    scores: Scores,
    reference: RawResult | None,
    base: Scores | None,
) -> tuple[ChangedAnswer, ...]:
    """Return the rows whose score moved: the tasks in turn, the greatest losses of each first."""
    if reference is None or base is None:
        return ()
    changed = [
        ChangedAnswer(
            id=row.id,
            task=row.task,
            prompt=row.text,
            images=tuple(str(path) for path in row.images),
            answers=row.answers,
            reference_text=theirs.text,
            text=own.text,
            reference_score=before,
            score=now,
        )
        for row, own, theirs, now, before in zip(
            rows, raw.answers, reference.answers, scores, base, strict=True
        )
        if now is not None and before is not None and now != before
    ]
    changed.sort(key=lambda one: one.score - one.reference_score)
    turns = [[one for one in changed if one.task == task] for task in METRICS]
    mixed = [own[at] for at in range(len(changed)) for own in turns if at < len(own)]
    return tuple(mixed[:MAX_CHANGED])


def _row_results(
    rows: Sequence[Row], answers: Sequence[Answer], scores: Scores
) -> tuple[RowResult, ...]:
    return tuple(
        RowResult(id=row.id, task=row.task, text=answer.text, score=score)
        for row, answer, score in zip(rows, answers, scores, strict=True)
    )
