"""`bench`: from bundles to latency, parity, gates and a report."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from moir_edge.errors import DataError
from moir_edge.evaluation.candidates import TimedAnswer
from moir_edge.evaluation.candidates.decoding import decoding_notices
from moir_edge.evaluation.comparison.figures import component_samples, router_overhead
from moir_edge.evaluation.identity import same_notices
from moir_edge.evaluation.machine import CpuTimes, busy_notices, describe_machine, load_average
from moir_edge.evaluation.measure import (
    LatencyPlan,
    OverheadPairs,
    measure_latency,
    measure_overhead,
)
from moir_edge.evaluation.parity.gates import check_bench_gates
from moir_edge.evaluation.parity.numbers import measure_numbers
from moir_edge.evaluation.parity.output import check_output, write_bench
from moir_edge.evaluation.parity.prompts import Prompts, prompts_of
from moir_edge.evaluation.parity.schema import (
    BenchReport,
    PromptFacts,
    SpeedPair,
    Subject,
    SubjectParity,
    Timing,
)
from moir_edge.evaluation.parity.settings import BenchSettings
from moir_edge.evaluation.parity.speed import speed_pairs
from moir_edge.evaluation.parity.subjects import (
    Opened,
    identify_models,
    open_bundles,
    open_reference,
    open_subject,
    plan_subjects,
)
from moir_edge.evaluation.process import CandidateProcess
from moir_edge.evaluation.provenance import Machine, Provenance, data_facts
from moir_edge.evaluation.records import GateResult, Samples
from moir_edge.progress import Progress, silent, single_step
from moir_edge.version import __version__

__all__ = ["bench"]


def bench(
    settings: BenchSettings,
    output: str | Path | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure bundles in turns, and under `settings.parity` compare their numbers and times.

    Every subject runs in a fresh process of its own; all stay loaded until the end. A failed gate does not raise: look
    at `BenchReport.passed`.

    Args:
        settings: What to measure.
        output: Folder for `bench.json` and `bench.html`; None writes nothing.
        force: Replace a report that stands at `output`.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        DataError: The prompts cannot be used, parity lacks a reference, a bundle or the reference is another model
            than the first bundle, or `output` may not be replaced.
        MoirEdgeError: A bundle cannot be loaded or run.
    """
    if output is not None:
        check_output(Path(output), force=force)
    report = _Run(settings, progress or silent).report()
    if output is not None:
        write_bench(report, Path(output), force=force)
    return report


@dataclass
class _Times:
    """Raw times of one subject."""

    timed: Sequence[TimedAnswer]
    overhead: OverheadPairs | None
    peak_memory_bytes: int


class _Run:
    """One run; the steps share settings, prompts and the bundles."""

    def __init__(self, settings: BenchSettings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._load_before = load_average()
        self._models = identify_models(settings)
        self._bundles = open_bundles(settings)
        self._specs = plan_subjects(settings, self._bundles)

    def report(self) -> BenchReport:
        """Load, measure, compare and check."""
        settings, first = self._settings, next(iter(self._bundles.values()))
        with tempfile.TemporaryDirectory(prefix="moir-edge-") as name, ExitStack() as stack:
            folder = Path(name)
            prompts = prompts_of(settings, folder, first.manifest.model.image_size)
            facts = prompts.facts(first)
            opened = self._open(stack, prompts)
            reference = None
            if settings.parity:
                with single_step(self._progress, "reference"):
                    reference = open_reference(stack, settings, opened, prompts.rows, folder)
            providers = _providers(opened)
            times, machine = self._measure(opened, prompts)
            parity = self._parity(opened, reference, prompts)
        subjects = [
            _subject(one, time, numbers, prompts, settings.seed)
            for one, time, numbers in zip(opened, times, parity, strict=True)
        ]
        timed = [None if time is None else time.timed for time in times]
        pairs = speed_pairs(subjects, timed, seed=settings.seed) if settings.parity else ()
        compared = _compared(opened, reference)
        gates = check_bench_gates(
            subjects, pairs, settings.bounds, compared=compared, rounds=settings.repeats
        )
        source = settings.data
        data = None if source is None else data_facts(source, prompts.rows)
        provenance = Provenance.of(self._models, providers, data, machine)
        return self._report(provenance, facts, subjects, pairs, gates).model_copy(
            update={"reference": _reference_name(settings, reference)}
        )

    def _report(
        self,
        provenance: Provenance,
        prompts: tuple[PromptFacts, ...],
        subjects: Sequence[Subject],
        pairs: Sequence[SpeedPair],
        gates: Sequence[GateResult],
    ) -> BenchReport:
        settings = self._settings
        return BenchReport(
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            version=__version__,
            notices=(
                *same_notices(self._models),
                *busy_notices(provenance.machine),
                *decoding_notices(self._specs),
            ),
            provenance=provenance,
            threads=self._specs[0].threads,
            repeats=settings.repeats,
            warm_up_rows=sum(one.timed_rows for one in prompts),
            max_new_tokens=settings.max_new_tokens,
            seed=settings.seed,
            prompts=prompts,
            subjects=tuple(subjects),
            pairs=tuple(pairs),
            gates=tuple(gates),
        )

    def _open(self, stack: ExitStack, prompts: Prompts) -> list[Opened]:
        specs, opened = self._specs, []
        for at, spec in enumerate(specs):
            self._progress("loading", at, len(specs))
            opened.append(open_subject(stack, spec, self._bundles[spec.source], prompts.rows))
        self._progress("loading", len(specs), len(specs))
        if all(one.process is None for one in opened):
            raise DataError(f"nothing can be measured: {opened[0].spec.name} {opened[0].reason}")
        return opened

    def _measure(
        self, opened: Sequence[Opened], prompts: Prompts
    ) -> tuple[list[_Times | None], Machine]:
        """Time all subjects in turns; peak memory is read after that, before anything is run in batches."""
        settings = self._settings
        plan = LatencyPlan(
            rows=prompts.timed,
            repeats=settings.repeats,
            # All of them: a GPU makes contexts and kernels at the first prompt of each length.
            warm_up=len(prompts.timed),
            max_new_tokens=settings.max_new_tokens,
        )
        cpu = CpuTimes()
        processes = [one.process for one in opened if one.process is not None]
        timed = measure_latency(processes, plan, self._progress)
        peaks = [one.peak_memory() for one in processes]
        pairs = measure_overhead(processes, plan, self._progress)
        machine = describe_machine(self._load_before, cpu.steal_percent())
        done = iter(
            _Times(timed=times, overhead=pair, peak_memory_bytes=peak)
            for times, pair, peak in zip(timed, pairs, peaks, strict=True)
        )
        return [None if one.process is None else next(done) for one in opened], machine

    def _parity(
        self, opened: Sequence[Opened], reference: CandidateProcess | None, prompts: Prompts
    ) -> list[SubjectParity | None]:
        """Compare what could be loaded with the reference, which is not held against itself."""
        if reference is None:
            return [None] * len(opened)
        others = [one.process for one in opened if one.process not in (None, reference)]
        found = iter(
            measure_numbers(
                reference,
                [one for one in others if one is not None],
                prompts,
                decode_steps=self._settings.decode_steps,
                progress=self._progress,
            )
        )
        return [None if one.process in (None, reference) else next(found) for one in opened]


def _subject(
    opened: Opened,
    times: _Times | None,
    parity: SubjectParity | None,
    prompts: Prompts,
    seed: int,
) -> Subject:
    manifest = opened.bundle.manifest
    subject = Subject(
        name=opened.spec.name,
        source=opened.spec.source,
        target=manifest.target,
        precision=manifest.precision,
        provider=opened.spec.provider,
        engines=tuple(dict.fromkeys(engine.target for engine in manifest.engines)),
        reason=opened.reason,
    )
    if opened.process is None or times is None:
        return subject
    loaded = opened.process.loaded
    return subject.model_copy(
        update={
            "backend": loaded.facts.backend,
            "weights_bytes": loaded.facts.weights_bytes,
            "load_seconds": loaded.load_seconds,
            "peak_memory_bytes": times.peak_memory_bytes,
            "libraries_memory_bytes": loaded.libraries_memory_bytes,
            "timings": _timings(times.timed, prompts),
            "router": router_overhead(times.overhead, seed=seed) if times.overhead else None,
            "parity": parity,
        }
    )


def _timings(timed: Sequence[TimedAnswer], prompts: Prompts) -> tuple[Timing, ...]:
    """Gather the answers by kind of prompt; they come round by round in the order of `prompts.timed`."""
    by_label: dict[str, list[TimedAnswer]] = {}
    for turn, answer in enumerate(timed):
        row = prompts.timed[turn % len(prompts.timed)]
        by_label.setdefault(prompts.labels[row], []).append(answer)
    return tuple(_timing(label, answers) for label, answers in by_label.items())


def _timing(label: str, answers: Sequence[TimedAnswer]) -> Timing:
    token_ms = [ms for one in answers for ms in one.token_ms]
    return Timing(
        prompt=label,
        ttft=Samples.of([one.ttft_ms for one in answers], "ms"),
        components=component_samples(answers),
        tpot=Samples.of(token_ms, "ms") if token_ms else None,
    )


def _providers(opened: Sequence[Opened]) -> dict[str, Mapping[str, str]]:
    processes = [one.process for one in opened if one.process is not None]
    return {one.spec.name: one.loaded.facts.providers for one in processes}


def _compared(opened: Sequence[Opened], reference: CandidateProcess | None) -> list[str]:
    if reference is None:
        return []
    return [one.spec.name for one in opened if one.process is not reference]


def _reference_name(settings: BenchSettings, reference: CandidateProcess | None) -> str | None:
    return None if reference is None else settings.reference or reference.spec.name
