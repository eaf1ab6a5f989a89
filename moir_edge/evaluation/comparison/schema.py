"""The report as data: what `report.json` holds, with units in the names and every raw sample kept."""

from __future__ import annotations

from typing import ClassVar

from moir_edge.evaluation.records import GateResult, RouterOverhead, Samples
from moir_edge.evaluation.writing import VersionedReport, report_kind, report_text
from moir_edge.metrics.records import (
    Interval,
    PairedRatio,
    Record,
    RoutingAgreement,
    TaskFigures,
    TokenAgreement,
)
from moir_edge.staging import FolderKind
from moir_edge.threads import ThreadWait

__all__ = [
    "COMPONENT_ORDER",
    "REPORT_SCHEMA_VERSION",
    "CandidateReport",
    "ChangedAnswer",
    "ComparisonReport",
    "RowResult",
    "Settings",
]

REPORT_SCHEMA_VERSION = 3

COMPONENT_ORDER = ("preprocess", "vision", "embedding", "router", "pruning", "prefill", "other")
"""Names of the parts of the time to first token, in the order in which they run."""


class RowResult(Record):
    """One answer; `score` is None where the row carries no answers."""

    id: str
    task: str
    text: str
    score: float | None


class ChangedAnswer(Record):
    """A row whose score differs from the reference's."""

    id: str
    task: str
    prompt: str
    images: tuple[str, ...]
    answers: tuple[str, ...]
    reference_text: str
    text: str
    reference_score: float
    score: float


class CandidateReport(Record):
    """All figures of one candidate.

    Attributes:
        peak_memory_bytes: Highest resident memory of its own process up to the end of the batch-1 latency phase:
            Python and its libraries, the weights (mapped files too), activations and KV cache.
        libraries_memory_bytes: The part that stood before the weights were loaded.
        ttft: Time to first token per sample, vision included.
        tpot: Time of each output token after the first, the end token too, over all answers.
        ttft_ratio: Time to first token over the reference's, of samples taken in one turn; None for the reference.
        decode_rate: Tokens per second after the first token, one sample per answer of at least two tokens.
        components: The parts of TTFT.
        energy: Energy of the whole board for each answer, idle power included; None without a sensor.
        recovery: Unweighted mean of the tasks' recovery, a share; None for the reference itself.
        routing_reason: Why there is no `routing`, where the reference has a router.
    """

    name: str
    source: str
    kind: str
    backend: str
    precision: str
    component_precisions: dict[str, str]
    has_router: bool
    weights_bytes: int
    load_seconds: float
    peak_memory_bytes: int
    libraries_memory_bytes: int
    ttft: Samples
    ttft_ratio: PairedRatio | None = None
    tpot: Samples | None
    decode_rate: Samples | None
    components: dict[str, Samples]
    energy: Samples | None = None
    router_overhead: RouterOverhead | None
    tasks: dict[str, TaskFigures]
    recovery: Interval | None
    token_agreement: TokenAgreement | None
    routing: RoutingAgreement | None
    routing_reason: str | None = None
    changed: tuple[ChangedAnswer, ...]
    rows: tuple[RowResult, ...]


class Settings(Record):
    """Settings as measured."""

    threads: int
    thread_wait: ThreadWait = "sleep"
    batch_size: int
    max_new_tokens: int
    latency_rows: int
    latency_repeats: int
    warm_up_rows: int
    routing_rows: int
    bootstrap_resamples: int
    seed: int
    prune_image_tokens: tuple[float, ...] = ()
    prune_by: str | None = None


class ComparisonReport(VersionedReport):
    """A whole comparison; the first candidate is the reference."""

    command: ClassVar[str] = "compare"
    kind: ClassVar[FolderKind] = report_kind("report", "report", "candidates", "gates")
    current_version: ClassVar[int] = REPORT_SCHEMA_VERSION

    schema_version: int = REPORT_SCHEMA_VERSION
    settings: Settings
    candidates: tuple[CandidateReport, ...]
    gates: tuple[GateResult, ...]

    @property
    def reference(self) -> CandidateReport:
        """The candidate that recovery and agreement refer to."""
        return self.candidates[0]

    @property
    def passed(self) -> bool:
        """Whether every gate passed; True without gates."""
        return all(gate.passed for gate in self.gates)

    def summary(self) -> str:
        """Return the report as JSON without raw samples and single rows, which `report.json` keeps."""
        return report_text(
            self, exclude={"candidates": {"__all__": {"rows", "changed"}}}, samples=False
        )
