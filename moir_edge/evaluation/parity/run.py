"""`bench`: from bundles to latency, parity, gates and a report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from moir_edge.arguments import check_run, given, instance
from moir_edge.evaluation.candidates import TimedAnswer
from moir_edge.evaluation.candidates.decoding import decoding_notices
from moir_edge.evaluation.comparison.figures import (
    component_samples,
    energy_samples,
    router_overhead,
)
from moir_edge.evaluation.identity import same_notices
from moir_edge.evaluation.machine import busy_notices, load_average
from moir_edge.evaluation.measure import LatencyPlan, TimedCandidate, measure_times
from moir_edge.evaluation.opening import Opened, loaded_processes, open_candidates, providers_of
from moir_edge.evaluation.parity.candidates import (
    identify_models,
    open_bundles,
    open_reference,
    plan_candidates,
)
from moir_edge.evaluation.parity.gates import check_bench_gates
from moir_edge.evaluation.parity.numbers import measure_numbers
from moir_edge.evaluation.parity.page import render_html
from moir_edge.evaluation.parity.prompts import Prompts, prompts_of
from moir_edge.evaluation.parity.schema import (
    BenchCandidate,
    BenchReport,
    NumericParity,
    Timing,
)
from moir_edge.evaluation.parity.settings import BenchSettings
from moir_edge.evaluation.parity.speed import speed_pairs
from moir_edge.evaluation.process import CandidateProcess
from moir_edge.evaluation.provenance import Machine, Provenance, data_facts
from moir_edge.evaluation.records import Samples
from moir_edge.evaluation.writing import check_output, write_report
from moir_edge.progress import Progress, silent, single_step
from moir_edge.temporary import TemporaryFolder
from moir_edge.threads import default_thread_wait

__all__ = ["bench"]

_PICTURE_SIDE = 448  # px, for models whose images have no tiles of one size


def bench(
    settings: BenchSettings,
    output: str | Path | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure bundles in turns, and under `settings.parity` compare their numbers and times.

    Every candidate runs in a fresh process of its own; all stay loaded until the end. A failed gate does not raise: look
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
    given("settings", instance("settings", settings, BenchSettings), "a BenchSettings")
    check_run(progress)
    check_output(BenchReport, output, force=force)
    report = _Run(settings, progress or silent).report()
    write_report(report, render_html, output, force=force)
    return report


class _Run:
    """One run; the steps share settings, prompts and the bundles."""

    def __init__(self, settings: BenchSettings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._load_before = load_average()
        self._models = identify_models(settings)
        self._bundles = open_bundles(settings)
        self._specs = plan_candidates(settings, self._bundles)

    def report(self) -> BenchReport:
        """Load, measure, compare and check."""
        settings, first = self._settings, next(iter(self._bundles.values()))
        with TemporaryFolder() as folder, ExitStack() as stack:
            prompts = prompts_of(settings, folder, first.manifest.model.image_size or _PICTURE_SIDE)
            facts = prompts.facts(first)
            opened = open_candidates(stack, self._specs, prompts.rows, self._progress)
            reference = None
            if settings.parity:
                with single_step(self._progress, "reference"):
                    reference = open_reference(
                        stack, settings, opened, self._bundles, prompts.rows, folder
                    )
            providers = providers_of(opened)
            times, machine = self._measure(opened, prompts)
            parity = self._parity(opened, reference, prompts)
        candidates = [
            self._candidate(one, time, numbers, prompts)
            for one, time, numbers in zip(opened, times, parity, strict=True)
        ]
        timed = [None if time is None else time.timed for time in times]
        pairs = speed_pairs(candidates, timed, seed=settings.seed) if settings.parity else ()
        compared = _compared(opened, reference)
        gates = check_bench_gates(
            candidates, pairs, settings.bounds, compared=compared, rounds=settings.repeats
        )
        source = settings.data
        data = None if source is None else data_facts(source, prompts.rows)
        provenance = Provenance.of(self._models, providers, data, machine)
        notices = (
            *same_notices(self._models),
            *busy_notices(machine),
            *decoding_notices(self._specs),
        )
        return BenchReport(
            **BenchReport.header(provenance, notices),
            threads=self._specs[0].threads,
            thread_wait=default_thread_wait(),
            repeats=settings.repeats,
            warm_up_rows=sum(one.timed_rows for one in facts),
            max_new_tokens=settings.max_new_tokens,
            seed=settings.seed,
            prompts=facts,
            reference=_reference_name(settings, reference),
            candidates=tuple(candidates),
            pairs=tuple(pairs),
            gates=tuple(gates),
        )

    def _measure(
        self, opened: Sequence[Opened], prompts: Prompts
    ) -> tuple[list[TimedCandidate | None], Machine]:
        """Time all candidates in turns; None for one that could not be loaded."""
        settings = self._settings
        plan = LatencyPlan(
            rows=prompts.timed,
            repeats=settings.repeats,
            # All of them: a GPU makes contexts and kernels at the first prompt of each length.
            warm_up=len(prompts.timed),
            max_new_tokens=settings.max_new_tokens,
        )
        found, machine = measure_times(
            loaded_processes(opened), plan, self._load_before, self._progress
        )
        done = iter(found)
        return [None if one.process is None else next(done) for one in opened], machine

    def _parity(
        self, opened: Sequence[Opened], reference: CandidateProcess | None, prompts: Prompts
    ) -> list[NumericParity | None]:
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

    def _candidate(
        self,
        opened: Opened,
        times: TimedCandidate | None,
        parity: NumericParity | None,
        prompts: Prompts,
    ) -> BenchCandidate:
        manifest = self._bundles[opened.spec.source].manifest
        candidate = BenchCandidate(
            name=opened.spec.name,
            source=opened.spec.source,
            target=manifest.target,
            precision=manifest.precision,
            provider=opened.spec.provider,
            engines=tuple(dict.fromkeys(engine.target for engine in manifest.engines)),
            reason=opened.reason,
        )
        if opened.process is None or times is None:
            return candidate
        loaded = opened.process.loaded
        return candidate.model_copy(
            update={
                "backend": loaded.facts.backend,
                "weights_bytes": loaded.facts.weights_bytes,
                "load_seconds": loaded.load_seconds,
                "peak_memory_bytes": times.peak_memory_bytes,
                "libraries_memory_bytes": loaded.libraries_memory_bytes,
                "timings": _timings(times.timed, prompts),
                "router": router_overhead(times.overhead, seed=self._settings.seed),
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
        energy=energy_samples(answers),
    )


def _compared(opened: Sequence[Opened], reference: CandidateProcess | None) -> list[str]:
    if reference is None:
        return []
    return [one.spec.name for one in opened if one.process is not reference]


def _reference_name(settings: BenchSettings, reference: CandidateProcess | None) -> str | None:
    return None if reference is None else settings.reference or reference.spec.name
