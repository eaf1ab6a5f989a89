"""Candidates without a model: answers, times and routing maps are made up, so that figures can be worked out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from moir_edge.bundle import Manifest, ModelFacts, SourceEntry
from moir_edge.bundle.manifest import MANIFEST_NAME
from moir_edge.data.answers import Answer, RoutingRow
from moir_edge.data.rows import Row
from moir_edge.evaluation.candidates import CandidateFacts, CandidateSpec, Loaded, TimedAnswer
from moir_edge.evaluation.comparison.gates import GateBounds, check_gates
from moir_edge.evaluation.comparison.run import measure_all
from moir_edge.evaluation.comparison.schema import ComparisonReport, Settings
from moir_edge.evaluation.provenance import DataFacts, ModelIdentity, Provenance

SETTINGS = Settings(
    threads=1,
    batch_size=4,
    max_new_tokens=8,
    latency_rows=6,
    latency_repeats=2,
    warm_up_rows=1,
    routing_rows=4,
    bootstrap_resamples=1000,
    seed=0,
)


def routing_row(seed: int = 0, *, swap: bool = False) -> RoutingRow:
    """Return a map of 6 tokens, 4 of them routed, with top-2 sources."""
    vectors = np.random.default_rng(seed).normal(size=(6, 8)).astype(np.float32)
    sources = np.array([[4, 5], [5, 4], [4, -1], [5, -1], [0, 1], [1, 0]])
    if swap:
        sources[0] = [5, 4]
        vectors[0] = -vectors[0]
    return RoutingRow(
        positions=np.arange(6),
        sources=sources,
        margins=np.full(6, 0.5, np.float32),
        gates=np.array([1, 1, 1, 1, 0, 0], np.float32),
        matched=vectors,
        added=vectors[::-1].copy(),
    )


class FakeCandidate:
    """Answers rows by a function; the router costs 1 ms of 11 ms."""

    def __init__(
        self,
        name: str,
        reply: Callable[[Row], str],
        rows: Sequence[Row],
        *,
        router: bool = True,
        speed: float = 1.0,
        log: list[str] | None = None,
    ) -> None:
        self.spec = CandidateSpec(
            name=name, source=name, kind="bundle", threads=1, max_new_tokens=8
        )
        facts = CandidateFacts(
            precision="int4" if name == "small" else "fp32",
            component_precisions={"decoder": "fp32"},
            weights_bytes=2_000_000 if name == "small" else 8_000_000,
            has_router=router,
            backend="none",
            providers={"decoder": "FakeProvider"},
        )
        self.loaded = Loaded(facts, 0.5, 1_000_000)
        self._reply, self._rows, self._speed = reply, rows, speed
        self.log = [] if log is None else log
        self._times = np.random.default_rng(len(name))

    def answer(self, indices: Sequence[int]) -> list[Answer]:
        self.log.append(f"{self.spec.name} answers {len(indices)}")
        return [self._answer(index) for index in indices]

    def timed(self, index: int, *, router: bool, max_new_tokens: int) -> TimedAnswer:
        self.log.append(f"{self.spec.name} {index} {'on' if router else 'off'} {max_new_tokens}")
        ms = self._speed * float(1 + 0.1 * self._times.random())
        parts = {"preprocess": 2 * ms, "vision": 4 * ms, "prefill": 4 * ms}
        if router and self.loaded.facts.has_router:
            parts["router"] = ms
        return TimedAnswer(
            answer=self._answer(index),
            ttft_ms=sum(parts.values()),
            component_ms=parts,
            token_ms=(ms, ms),
        )

    def route(self, indices: Sequence[int]) -> list[RoutingRow]:
        return [routing_row(index, swap=self.spec.name == "small") for index in indices]

    def peak_memory(self) -> int:
        self.log.append(f"{self.spec.name} memory")
        return 50_000_000

    def _answer(self, index: int) -> Answer:
        text = self._reply(self._rows[index])
        return Answer(text=text, token_ids=tuple(text.encode()))


def make_rows(folder: Path, count: int = 12) -> list[Row]:
    """Write one picture and return rows of all three tasks, in turns."""
    picture = folder / "red.png"
    Image.new("RGB", (16, 16), "red").save(picture)
    return [_row(at, picture) for at in range(count)]


def _row(at: int, picture: Path) -> Row:
    task = ("vqa", "statement", "caption")[at % 3]
    answers = {
        "vqa": ("red",),
        "statement": ("true",),
        "caption": (f"a red square number {at}", f"square {at} in <red>"),
    }[task]
    images = (picture, picture) if task == "statement" else (picture,)
    return Row(id=f"{task}-{at}", task=task, images=images, prompt=f"What & {at}?", answers=answers)


def right(row: Row) -> str:
    """Return the first accepted answer."""
    return row.answers[0]


def right_but_one(row: Row) -> str:
    """Miss the first vqa row only."""
    return "<b>blue</b>" if row.id == "vqa-0" else row.answers[0]


def make_identity(name: str, weights: str = "a" * 64) -> ModelIdentity:
    """Return a bundle without router; every one is the same model unless `weights` says otherwise."""
    return ModelIdentity(
        name=name,
        kind="bundle",
        source=name,
        checkpoint="vlm",
        weights_sha256=weights,
        router=None,
    )


def write_manifest(folder: Path, *, weights: str = "a" * 64, source: str = "vlm") -> Path:
    """Make a folder that looks like a bundle without files, for commands whose candidates are fakes."""
    needed = [name for name, field in ModelFacts.model_fields.items() if field.is_required()]
    facts = dict.fromkeys(needed, 1) | {
        "model_type": "smolvlm",
        "vocab_size": 3,
        "context_length": 2,
        "eos_token_ids": (2,),
        "special_token_ids": (),
        "newline_token_ids": (),
        "image_grid": None,
    }
    manifest = Manifest(
        created_with={},
        source=SourceEntry(name=source, sha256=weights, architecture="Fake"),
        model=ModelFacts.model_validate(facts),
        target="cpu",
        precision="fp32",
        router=None,
        router_sha256=None,
        components={},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return folder


def make_report(folder: Path, bounds: GateBounds | None = None) -> ComparisonReport:
    """Measure a perfect reference, an equal candidate without router, and one that misses an answer."""
    rows = make_rows(folder)
    candidates = [
        FakeCandidate("reference", right, rows, speed=4.0),
        FakeCandidate("plain", right, rows, router=False),
        FakeCandidate("small", right_but_one, rows, speed=0.5),
    ]
    reports, machine = measure_all(candidates, rows, SETTINGS, lambda *_: None, 0.25)
    return ComparisonReport(
        created="2026-01-02T03:04:05+00:00",
        version="0.0",
        provenance=Provenance.of(
            [make_identity(one.spec.name) for one in candidates],
            {one.spec.name: one.loaded.facts.providers for one in candidates},
            DataFacts(path="eval.jsonl", sha256="0" * 64, rows=12, tasks={"vqa": 4}),
            machine,
        ),
        settings=SETTINGS,
        candidates=tuple(reports),
        gates=tuple(check_gates(reports, bounds or GateBounds(), rounds=SETTINGS.latency_repeats)),
    )
