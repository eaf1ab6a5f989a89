"""`compare`: a checkpoint against bundles, from loading to the report folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from moir_edge.arguments import check_run, instance, sources
from moir_edge.data.formats import DataSource, as_source
from moir_edge.data.rows import Row
from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.evaluation.candidates import CandidateSpec, specs_of
from moir_edge.evaluation.candidates.decoding import decoding_notices
from moir_edge.evaluation.comparison.figures import RawResult, candidate_report
from moir_edge.evaluation.comparison.gates import GateBounds, check_gates
from moir_edge.evaluation.comparison.page import render_html
from moir_edge.evaluation.comparison.schema import CandidateReport, ComparisonReport, Settings
from moir_edge.evaluation.comparison.settings import CompareSettings
from moir_edge.evaluation.identity import identify_same, same_notices
from moir_edge.evaluation.machine import busy_notices, load_average
from moir_edge.evaluation.measure import (
    LatencyPlan,
    latency_sample,
    measure_answers,
    measure_routing,
    measure_times,
)
from moir_edge.evaluation.opening import loaded_processes, open_candidates, providers_of
from moir_edge.evaluation.process import Measured
from moir_edge.evaluation.provenance import Machine, Provenance, Providers, data_facts
from moir_edge.evaluation.settings import for_each_share
from moir_edge.evaluation.writing import check_output, write_report
from moir_edge.metrics.bootstrap import RESAMPLES
from moir_edge.progress import Progress, silent
from moir_edge.threads import default_thread_wait, default_threads

__all__ = ["compare"]


def compare(
    checkpoint: str | Path,
    bundles: Sequence[str | Path],
    data: str | Path | DataSource,
    output: str | Path | None = None,
    settings: CompareSettings | None = None,
    *,
    bounds: GateBounds | None = None,
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
        settings: What is measured and how; None for the defaults.
        bounds: Gates.
        force: Replace a report that stands at `output`.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        DataError: The data cannot be used, a candidate is a different model from the first, or `output` may not be
            replaced.
        MoirEdgeError: A candidate cannot be loaded or run, on the provider that is named where one is.
    """
    settings = instance("settings", settings, CompareSettings) or CompareSettings()
    bounds = instance("bounds", bounds, GateBounds) or GateBounds()
    candidates_given = (*sources("checkpoint", [checkpoint]), *sources("bundles", bundles))
    check_run(progress)
    check_output(ComparisonReport, output, force=force)
    source = as_source(data)
    source.check()
    specs = _specs(candidates_given, settings)
    models = identify_same(specs, allow_other=settings.allow_other)
    rows = source.read(limit=settings.limit)
    used = _used(settings, specs[0].threads, len(rows))
    candidates, providers, machine = _measure(specs, rows, used, progress or silent)
    provenance = Provenance.of(models, providers, data_facts(source, rows), machine)
    notices = (*same_notices(models), *busy_notices(machine), *decoding_notices(specs))
    report = ComparisonReport(
        **ComparisonReport.header(provenance, notices),
        settings=used,
        candidates=tuple(candidates),
        gates=tuple(check_gates(candidates, bounds, rounds=used.latency_repeats)),
    )
    write_report(report, render_html, output, force=force)
    return report


def _measure(
    specs: Sequence[CandidateSpec], rows: Sequence[Row], settings: Settings, progress: Progress
) -> tuple[list[CandidateReport], Providers, Machine]:
    load_before = load_average()
    with ExitStack() as stack:
        opened = open_candidates(stack, specs, rows, progress)
        for one in opened:
            if one.process is None:
                raise EnvironmentProblem(f"{one.spec.name}: {one.reason}")
        processes = loaded_processes(opened)
        reports, machine = measure_all(processes, rows, settings, progress, load_before)
    return reports, providers_of(opened), machine


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
    times, machine = measure_times(candidates, plan, load_before, progress)
    raw = [
        RawResult(
            candidate=candidate,
            times=times[at],
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


def _specs(sources: Sequence[str | Path], settings: CompareSettings) -> list[CandidateSpec]:
    """Describe the reference and the candidates: each bundle, on each provider where some are named."""
    describe = partial(
        specs_of,
        threads=settings.threads or default_threads(),
        max_new_tokens=settings.max_new_tokens,
    )
    if len(sources) == 1:
        raise DataError("nothing to compare: give at least one bundle besides the reference")
    if not settings.providers and not settings.prune_image_tokens:
        return describe(sources, hub={0})
    others = describe(sources[1:], hub=())
    shortened = for_each_share(others, settings.prune_image_tokens, settings.prune_by)
    return [*describe(sources[:1], hub={0}), *_on_each_provider(shortened, settings.providers)]


def _on_each_provider(
    specs: Sequence[CandidateSpec], providers: Sequence[str]
) -> Iterator[CandidateSpec]:
    if not providers:
        yield from specs
    for one in specs:
        for provider in providers:
            if one.kind != "bundle":
                raise DataError(
                    f"a provider runs bundles, and {one.source} is a checkpoint; name bundles besides the reference"
                )
            yield replace(one, provider=provider, name=f"{one.name} on {provider}")


def _used(settings: CompareSettings, threads: int, rows: int) -> Settings:
    """Return the settings as they are measured with, for the report."""
    return Settings(
        threads=threads,
        thread_wait=default_thread_wait(),
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        latency_rows=min(settings.latency_rows, rows),
        latency_repeats=settings.latency_repeats,
        warm_up_rows=settings.warm_up_rows,
        routing_rows=min(settings.routing_rows, rows),
        bootstrap_resamples=RESAMPLES,
        seed=settings.seed,
        prune_image_tokens=settings.prune_image_tokens,
        prune_by=settings.prune_by if settings.prune_image_tokens else None,
    )
