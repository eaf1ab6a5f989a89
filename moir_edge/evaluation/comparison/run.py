"""`compare`: a checkpoint against bundles, from loading to the report folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

from moir_edge.data.formats import DataSource, as_source
from moir_edge.data.rows import Row
from moir_edge.errors import DataError
from moir_edge.evaluation.candidates import CandidateSpec, specs_of
from moir_edge.evaluation.candidates.decoding import decoding_notices
from moir_edge.evaluation.comparison.figures import RawResult, candidate_report
from moir_edge.evaluation.comparison.gates import GateBounds, check_gates
from moir_edge.evaluation.comparison.output import check_output, write_report
from moir_edge.evaluation.comparison.schema import CandidateReport, ComparisonReport, Settings
from moir_edge.evaluation.identity import identify_same, same_notices
from moir_edge.evaluation.machine import CpuTimes, busy_notices, describe_machine, load_average
from moir_edge.evaluation.measure import (
    LatencyPlan,
    latency_sample,
    measure_answers,
    measure_latency,
    measure_overhead,
    measure_routing,
)
from moir_edge.evaluation.process import CandidateProcess, Measured
from moir_edge.evaluation.provenance import Machine, Provenance, Providers, data_facts
from moir_edge.metrics.bootstrap import RESAMPLES
from moir_edge.progress import Progress, silent
from moir_edge.threads import default_threads
from moir_edge.version import __version__

__all__ = ["compare"]

WARM_UP_ROWS = 3
ROUTING_ROWS = 200


def compare(
    checkpoint: str | Path,
    bundles: Sequence[str | Path],
    data: str | Path | DataSource,
    output: str | Path | None = None,
    *,
    limit: int | None = None,
    latency_rows: int = 30,
    latency_repeats: int = 3,
    routing_rows: int = ROUTING_ROWS,
    batch_size: int = 32,
    max_new_tokens: int = 64,
    threads: int | None = None,
    seed: int = 0,
    bounds: GateBounds | None = None,
    allow_other: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> ComparisonReport:
    """Measure a reference and its bundles on the same rows and write a report.

    Every candidate runs in a fresh process of its own; all of them stay loaded until the end, so that latency can
    be taken in turns. A failed gate does not raise: look at `ComparisonReport.passed`.

    Args:
        checkpoint: The reference, which recovery and agreement refer to: a checkpoint folder or hub id, run by
            torch in float32, or, where there is no torch, a bundle (normally the fp32 one).
        bundles: What to compare with it: bundles, or further checkpoints.
        data: JSON lines, see `read_rows`, or a source in another format.
        output: Folder for `report.json` and `report.html`; None writes nothing.
        limit: Use only the first rows of the data.
        latency_rows: Rows that are timed, spread over the tasks.
        latency_repeats: Rounds over those rows.
        routing_rows: Rows whose routing maps are compared.
        batch_size: Rows per batch when all rows are answered.
        max_new_tokens: Longest answer, in tokens.
        threads: Threads of one operation; None takes every core of this process.
        seed: Seed of the bootstrap.
        bounds: Gates.
        allow_other: Take candidates that are different models; the report says so at the top.
        force: Replace a report that stands at `output`.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        DataError: The data cannot be used, a candidate is another model than the first, or `output` may not be
            replaced.
        MoirEdgeError: A candidate cannot be loaded or run.
    """
    if output is not None:
        check_output(Path(output), force=force)
    source = as_source(data)
    source.check()
    specs = _specs([checkpoint, *bundles], threads or default_threads(), max_new_tokens)
    models = identify_same(specs, allow_other=allow_other)
    rows = source.read(limit=limit)
    settings = Settings(
        threads=specs[0].threads,
        batch_size=_positive("batch_size", batch_size),
        max_new_tokens=_positive("max_new_tokens", max_new_tokens),
        latency_rows=min(_positive("latency_rows", latency_rows), len(rows)),
        latency_repeats=_positive("latency_repeats", latency_repeats),
        warm_up_rows=WARM_UP_ROWS,
        routing_rows=min(_positive("routing_rows", routing_rows), len(rows)),
        bootstrap_resamples=RESAMPLES,
        seed=seed,
    )
    candidates, providers, machine = _measure(specs, rows, settings, progress or silent)
    report = ComparisonReport(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=__version__,
        notices=(*same_notices(models), *busy_notices(machine), *decoding_notices(specs)),
        provenance=Provenance.of(models, providers, data_facts(source, rows), machine),
        settings=settings,
        candidates=tuple(candidates),
        gates=tuple(check_gates(candidates, bounds or GateBounds(), rounds=latency_repeats)),
    )
    if output is not None:
        write_report(report, Path(output), force=force)
    return report


def _measure(
    specs: Sequence[CandidateSpec], rows: Sequence[Row], settings: Settings, progress: Progress
) -> tuple[list[CandidateReport], Providers, Machine]:
    load_before = load_average()
    with ExitStack() as stack:
        processes: list[Measured] = []
        for at, spec in enumerate(specs):
            progress("loading", at, len(specs))
            processes.append(stack.enter_context(CandidateProcess(spec, rows)))
        progress("loading", len(specs), len(specs))
        providers = {one.spec.name: one.loaded.facts.providers for one in processes}
        reports, machine = measure_all(processes, rows, settings, progress, load_before)
    return reports, providers, machine


def measure_all(
    candidates: Sequence[Measured],
    rows: Sequence[Row],
    settings: Settings,
    progress: Progress,
    load_before: float,
) -> tuple[list[CandidateReport], Machine]:
    """Run every phase on loaded candidates: latency first, so that peak memory is that of batch 1.

    Returns:
        One report per candidate, and the machine as it was during the latency phase.
    """
    plan = LatencyPlan(
        rows=latency_sample(rows, settings.latency_rows),
        repeats=settings.latency_repeats,
        warm_up=settings.warm_up_rows,
        max_new_tokens=settings.max_new_tokens,
    )
    cpu = CpuTimes()
    timed = measure_latency(candidates, plan, progress)
    peaks = [candidate.peak_memory() for candidate in candidates]
    overheads = measure_overhead(candidates, plan, progress)
    machine = describe_machine(load_before, cpu.steal_percent())
    raw = [
        RawResult(
            candidate=candidate,
            timed=timed[at],
            overhead=overheads[at],
            peak_memory_bytes=peaks[at],
            answers=measure_answers(candidate, rows, settings.batch_size, progress),
            maps=measure_routing(
                candidate, rows, settings.routing_rows, settings.batch_size, progress
            )
            if candidate.loaded.facts.has_router
            else None,
        )
        for at, candidate in enumerate(candidates)
    ]
    reports = [
        candidate_report(one, None if at == 0 else raw[0], rows, seed=settings.seed)
        for at, one in enumerate(raw)
    ]
    return reports, machine


def _specs(sources: Sequence[str | Path], threads: int, max_new_tokens: int) -> list[CandidateSpec]:
    specs = specs_of(sources, threads=threads, max_new_tokens=max_new_tokens, hub={0})
    if len(specs) == 1:
        raise DataError("nothing to compare: give at least one bundle besides the reference")
    return specs


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise DataError(f"{name.replace('_', '-')} must be at least 1, got {value}")
    return value
