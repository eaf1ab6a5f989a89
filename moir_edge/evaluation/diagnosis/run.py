"""`diagnose`: which modality a model leans on, and what it loses when one of them gets worse."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from moir_edge.arguments import check_run, instance
from moir_edge.arguments import sources as checked_sources
from moir_edge.data.answers import Answer
from moir_edge.data.formats import DataSource, as_source
from moir_edge.data.rows import Row
from moir_edge.data.variants import ImageStore
from moir_edge.errors import BundleError, DataError, UnsupportedError
from moir_edge.evaluation.candidates import Candidate, CandidateSpec, load_candidate, specs_of
from moir_edge.evaluation.candidates.checkpoint import CheckpointCandidate
from moir_edge.evaluation.candidates.decoding import decoding_notices
from moir_edge.evaluation.diagnosis.changes import candidate_changes
from moir_edge.evaluation.diagnosis.figures import CandidateFigures
from moir_edge.evaluation.diagnosis.page import render_html
from moir_edge.evaluation.diagnosis.plan import Plan, answer_plan, make_plan
from moir_edge.evaluation.diagnosis.schema import (
    CLEAN,
    Attention,
    CandidateDiagnosis,
    DiagnosisReport,
    RoutingExample,
)
from moir_edge.evaluation.diagnosis.settings import DiagnoseSettings
from moir_edge.evaluation.identity import identify_pairs, pair_notices
from moir_edge.evaluation.machine import CpuTimes, describe_machine, load_average
from moir_edge.evaluation.measure import latency_sample
from moir_edge.evaluation.provenance import Provenance, Providers, data_facts
from moir_edge.evaluation.writing import check_output, write_report
from moir_edge.progress import Progress, silent, single_step
from moir_edge.temporary import TemporaryFolder
from moir_edge.threads import default_threads

__all__ = ["diagnose", "diagnose_candidate", "diagnose_rows"]

_NOT_ASKED = "not asked for"


def diagnose(
    sources: Sequence[str | Path],
    data: str | Path | DataSource,
    output: str | Path | None = None,
    settings: DiagnoseSettings | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> DiagnosisReport:
    """Diagnose models on the same rows, one after the other.

    Args:
        sources: Checkpoints (folders or hub ids, with a router or without) and bundles.
        data: The rows, a bare path for JSON lines; rows without answers are left out.
        output: Folder for `diagnosis.json` and `diagnosis.html`; None writes nothing.
        settings: What is measured and how; None for the defaults.
        force: Replace a diagnosis that stands at `output`.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        DataError: The data or a source cannot be used, a bundle comes from none of the checkpoints beside it, or
            `output` may not be replaced.
        MoirEdgeError: A source cannot be loaded or run.
    """
    settings = instance("settings", settings, DiagnoseSettings) or DiagnoseSettings()
    sources = checked_sources("sources", sources)
    check_run(progress)
    check_output(DiagnosisReport, output, force=force)
    source = as_source(data)
    every = source.read(limit=settings.limit)
    rows = [row for row in every if row.answers]
    if not rows:
        raise DataError(
            f"{source.path}: no row has answers, so nothing can be scored; add 'answers' to the rows"
        )
    specs = _specs(sources, settings)
    models = identify_pairs(specs, allow_other=settings.allow_other)
    load_before, cpu = load_average(), CpuTimes()
    diagnosed, providers = _diagnose_all(specs, rows, settings, progress or silent)
    machine = describe_machine(load_before, cpu.steal_percent())
    provenance = Provenance.of(models, providers, data_facts(source, rows), machine)
    report = DiagnosisReport(
        **DiagnosisReport.header(provenance, (*pair_notices(models), *decoding_notices(specs))),
        unscored_rows=len(every) - len(rows),
        settings=settings,
        candidates=diagnosed,
    )
    write_report(report, render_html, output, force=force)
    return report


def diagnose_rows(
    sources: Sequence[str | Path],
    rows: Sequence[Row],
    settings: DiagnoseSettings | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[CandidateDiagnosis, ...]:
    """Diagnose models on rows that are in memory; see `diagnose`.

    Args:
        sources: Checkpoints and bundles.
        rows: Rows with answers.
        settings: What is measured and how; `limit` is not applied.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        DataError: A row has no answers, a source cannot be used, or a bundle comes from none of the checkpoints
            beside it.
        MoirEdgeError: A source cannot be loaded or run.
    """
    settings, progress = settings or DiagnoseSettings(), progress or silent
    for row in rows:
        if not row.answers:
            raise DataError(
                f"{row.place}: the row has no answers, so it cannot be scored; leave it out"
            )
    if not rows:
        raise DataError("nothing to diagnose: give at least one row")
    specs = _specs(sources, settings)
    identify_pairs(specs, allow_other=settings.allow_other)
    diagnosed, _ = _diagnose_all(specs, rows, settings, progress)
    return diagnosed


def _specs(sources: Sequence[str | Path], settings: DiagnoseSettings) -> list[CandidateSpec]:
    specs = specs_of(
        sources,
        threads=settings.threads or default_threads(),
        max_new_tokens=settings.max_new_tokens,
        hub=range(len(sources)),
    )
    if not specs:
        raise DataError("nothing to diagnose: give at least one model")
    return specs


def _diagnose_all(
    specs: Sequence[CandidateSpec],
    rows: Sequence[Row],
    settings: DiagnoseSettings,
    progress: Progress,
) -> tuple[tuple[CandidateDiagnosis, ...], Providers]:
    """Load and diagnose one source after the other; the first is what the others are compared with."""
    with TemporaryFolder() as folder:
        plan = make_plan(rows, settings, ImageStore(folder))
        diagnosed: list[CandidateDiagnosis] = []
        providers: dict[str, Mapping[str, str]] = {}
        reference: CandidateFigures | None = None
        for spec in specs:
            with _threads_restored():
                with single_step(progress, f"{spec.name}: loading"):
                    candidate = load_candidate(spec)
                providers[spec.name] = candidate.facts.providers
                one, figures = diagnose_candidate(
                    candidate, spec, plan, settings, reference, progress
                )
            diagnosed.append(one)
            reference = reference or figures
    return tuple(diagnosed), providers


def diagnose_candidate(
    candidate: Candidate,
    spec: CandidateSpec,
    plan: Plan,
    settings: DiagnoseSettings,
    reference: CandidateFigures | None,
    progress: Progress,
) -> tuple[CandidateDiagnosis, CandidateFigures]:
    """Ask a loaded model everything.

    Args:
        candidate: The model.
        spec: What it was loaded from.
        plan: The rows and their degraded versions.
        settings: What is measured.
        reference: Figures to state differences to, or None.
        progress: Called as ``progress(stage, done, total)``.

    Returns:
        The diagnosis, and the figures for the diagnosis of further models to refer to.
    """
    start = time.perf_counter()
    answers = answer_plan(
        candidate, plan, batch_size=settings.batch_size, progress=progress, name=spec.name
    )
    attention, no_attention = _attention(candidate, spec.name, plan, answers, settings, progress)
    with single_step(progress, f"{spec.name}: routing maps"):
        routing, no_routing = _routing(candidate, plan, settings)
    figures = CandidateFigures(plan, answers, settings)
    diagnosed = CandidateDiagnosis(
        name=spec.name,
        source=spec.source,
        kind=spec.kind,
        backend=candidate.facts.backend,
        precision=candidate.facts.precision,
        has_router=candidate.facts.has_router,
        conditions=figures.conditions(),
        shares=figures.shares(),
        perceptual=figures.perceptual(),
        attention=attention,
        attention_reason=no_attention,
        changes=candidate_changes(figures, reference, settings) if reference else {},
        routing=routing,
        routing_reason=no_routing,
        seconds=time.perf_counter() - start,
    )
    return diagnosed, figures


def _attention(
    candidate: Candidate,
    name: str,
    plan: Plan,
    answers: Mapping[str, Sequence[Answer]],
    settings: DiagnoseSettings,
    progress: Progress,
) -> tuple[Attention | None, str | None]:
    """Return the attention figures, or why there are none."""
    if settings.attention_rows == 0:
        return None, _NOT_ASKED
    if not isinstance(candidate, CheckpointCandidate):
        return None, "needs attention weights, which a bundle does not give out"
    from moir_edge.evaluation.diagnosis.attention import attention_figures, measure_attention

    chosen = latency_sample(plan.rows, min(settings.attention_rows, len(plan.rows)))
    try:
        measured = measure_attention(
            candidate,
            [plan.rows[at] for at in chosen],
            [answers[CLEAN][at] for at in chosen],
            max_new_tokens=settings.max_new_tokens,
            progress=progress,
            stage=f"{name}: attention",
        )
    except UnsupportedError as error:
        return None, str(error)  # the other figures stand without it
    return attention_figures(measured, seed=settings.seed), None


def _routing(
    candidate: Candidate, plan: Plan, settings: DiagnoseSettings
) -> tuple[tuple[RoutingExample, ...], str | None]:
    """Return the routing maps of a few rows, or why there are none."""
    if settings.routing_rows == 0:
        return (), _NOT_ASKED
    if not candidate.facts.has_router:
        return (), "there is no router"
    from moir_edge.evaluation.diagnosis.routing import routing_examples

    chosen = latency_sample(plan.rows, min(settings.routing_rows, len(plan.rows)))
    try:
        return tuple(routing_examples(candidate, [plan.rows[at] for at in chosen])), None
    except (BundleError, UnsupportedError) as error:
        return (), str(error)  # the figures stand without pictures


@contextmanager
def _threads_restored() -> Iterator[None]:
    """Give back torch's number of threads, which loading a checkpoint sets for the whole process."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
