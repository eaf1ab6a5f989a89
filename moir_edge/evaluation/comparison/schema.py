"""The report as data: what `report.json` holds, with units in the names and every raw sample kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from moir_edge.evaluation.provenance import VersionedReport
from moir_edge.metrics.records import Percent, Record, RoutingAgreement, TaskFigures, TokenAgreement

__all__ = [
    "COMPONENT_ORDER",
    "REPORT_SCHEMA_VERSION",
    "CandidateReport",
    "ChangedAnswer",
    "ComparisonReport",
    "GateResult",
    "Ratio",
    "RouterOverhead",
    "RowResult",
    "Samples",
    "Settings",
]

REPORT_SCHEMA_VERSION = 2

COMPONENT_ORDER = ("preprocess", "vision", "embedding", "router", "prefill", "other")
"""Names of the parts of the time to first token, in the order in which they run."""

Unit = Literal["ms", "tokens/s"]


class Samples(Record):
    """Raw samples in the order of measurement, and the percentiles derived from them."""

    unit: Unit
    median: float
    p10: float
    p90: float
    p99: float
    mean: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float], unit: Unit) -> Samples:
        """Derive the percentiles.

        Args:
            samples: At least one.
            unit: Unit of every sample.

        Raises:
            ValueError: There is no sample.
        """
        if not samples:
            raise ValueError("Samples needs at least one sample")
        values = [float(value) for value in samples]
        p10, median, p90, p99 = (float(q) for q in np.percentile(values, [10, 50, 90, 99]))
        return cls(
            unit=unit,
            median=median,
            p10=p10,
            p90=p90,
            p99=p99,
            mean=float(np.mean(values)),
            samples=tuple(values),
        )


class Ratio(Record):
    """Median of paired ratios of times with its 95 % bootstrap interval; under 1 is faster."""

    ratio: float
    low: float
    high: float
    pairs: int


class RouterOverhead(Record):
    """Time to first token with the router on against off, taken in turns on the same rows.

    Attributes:
        on: TTFT with the router.
        off: TTFT without, sample i next to sample i of `on`.
        overhead: Median of the paired differences over the median of `off`.
        component_percent: Time inside the router over TTFT, median; None where it is not timed apart.
    """

    on: Samples
    off: Samples
    overhead: Percent
    component_percent: float | None


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
        recovery: Unweighted mean of the tasks' recovery; None for the reference itself.
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
    ttft_ratio: Ratio | None = None
    tpot: Samples | None
    decode_rate: Samples | None
    components: dict[str, Samples]
    router_overhead: RouterOverhead | None
    tasks: dict[str, TaskFigures]
    recovery: Percent | None
    token_agreement: TokenAgreement | None
    routing: RoutingAgreement | None
    routing_reason: str | None = None
    changed: tuple[ChangedAnswer, ...]
    rows: tuple[RowResult, ...]


class GateResult(Record):
    """One bound on one candidate.

    Attributes:
        value: None where it could not be measured, which fails the gate; `reason` says why where there is more to say.
        low: Lower end of the 95 % interval that decided; None where the value alone did.
        high: Its upper end.
        outcome: `undecided` where the interval holds the bound. Only `passed` is a pass.
        counted: What the interval was taken from: `pairs` of times, or `rows`.
        more: Undecided: about how many more of them would decide; None where no number would.
        more_rounds: The same in rounds over the timed rows.
    """

    candidate: str
    figure: str
    value: float | None
    low: float | None = None
    high: float | None = None
    bound: float
    relation: Literal[">=", "<="]
    unit: str
    outcome: Literal["passed", "failed", "undecided"]
    reason: str | None = None
    counted: Literal["pairs", "rows"] | None = None
    more: int | None = None
    more_rounds: int | None = None

    @property
    def passed(self) -> bool:
        """Whether the bound is kept, for certain where there is an interval."""
        return self.outcome == "passed"

    def value_text(self) -> str:
        """Return the value with its unit and interval; a pure number, which may be near 0 or 1, with more digits."""
        if self.value is None:
            return self.reason or "not measured"
        if self.low is None or self.high is None:
            return self._number(self.value) + self.unit
        ends = " to ".join(self._number(end) for end in (self.low, self.high))
        return f"{self._number(self.value)}{self.unit} ({ends})"

    def more_text(self) -> str:
        """Return what would decide an undecided gate; empty for the others."""
        if self.outcome != "undecided":
            return ""
        if self.more is None:
            return f"no number of {self.counted} decides: the value lies at the bound"
        counted = (self.counted or "")[: -1 if self.more == 1 else None]
        rounds = ""
        if self.more_rounds is not None:
            rounds = f" ({self.more_rounds} more round{'' if self.more_rounds == 1 else 's'})"
        return f"about {self.more} more {counted}{rounds} would decide"

    def sentence(self) -> str:
        """Return the result as one line for people."""
        verdict = "passed" if self.passed else self.outcome.upper()
        bound = f"bound {self.relation} {self.bound:g}{self.unit}"
        more = f"; {self.more_text()}" if self.more_text() else ""
        return f"{verdict}: {self.candidate} {self.figure} {self.value_text()}, {bound}{more}"

    def _number(self, value: float) -> str:
        return f"{value:.2f}" if self.unit else f"{value:.6g}"


class Settings(Record):
    """How it was measured."""

    threads: int
    batch_size: int
    max_new_tokens: int
    latency_rows: int
    latency_repeats: int
    warm_up_rows: int
    routing_rows: int
    bootstrap_resamples: int
    seed: int


class ComparisonReport(VersionedReport):
    """A whole comparison; the first candidate is the reference."""

    command: ClassVar[str] = "compare"
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
        """Whether every gate held (also where there is none)."""
        return all(gate.passed for gate in self.gates)
