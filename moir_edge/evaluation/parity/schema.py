"""The report of `bench` as data: what `bench.json` holds, with units in the names and every raw sample kept."""

from __future__ import annotations

from typing import ClassVar, Literal

from moir_edge.bundle import COMPONENTS
from moir_edge.evaluation.records import GateResult, RouterOverhead, Samples
from moir_edge.evaluation.writing import VersionedReport, report_kind, report_text
from moir_edge.metrics.records import PairedRatio, Record, RoutingAgreement, TokenAgreement
from moir_edge.staging import FolderKind
from moir_edge.threads import ThreadWait

__all__ = [
    "BENCH_SCHEMA_VERSION",
    "BOUNDARY",
    "BenchCandidate",
    "BenchReport",
    "ComponentParity",
    "NumericParity",
    "PairKind",
    "PromptFacts",
    "SpeedPair",
    "Timing",
]

BENCH_SCHEMA_VERSION = 3

BOUNDARY = (
    "from decoded images and text in host memory to the token on the host: preprocessing, tokenizer, every component, "
    "and on a GPU every copy in and out"
)
"""What is inside a time; the same for everything that is measured."""

PairKind = Literal[
    "engine against ONNX Runtime",
    "provider against provider",
    "target against target",
    "bundle against bundle",
]


class PromptFacts(Record):
    """One kind of prompt.

    Attributes:
        label: How rows of the report call it.
        rows: Prompts of that kind, all of which parity is measured on.
        timed_rows: Those that are timed.
        images: Images of each, the fewest and the most.
        tokens: Tokens of the timed ones, image tokens included, the fewest and the most.
    """

    label: str
    rows: int
    timed_rows: int
    images: tuple[int, int]
    tokens: tuple[int, int]


class Timing(Record):
    """Times of one candidate on one kind of prompt at batch 1.

    Attributes:
        prompt: The label.
        ttft: Time to first token.
        components: Its parts.
        tpot: Time of each further token; None where every answer ended with the first.
        energy: Energy of the whole board for each answer, idle power included; None without a sensor.
    """

    prompt: str
    ttft: Samples
    components: dict[str, Samples]
    tpot: Samples | None
    energy: Samples | None = None


class ComponentParity(Record):
    """One component against the reference's, fed with the same values.

    Where one output of the component is not finite, all figures are None.

    Attributes:
        component: `vision`, `embedding`, `router` (its embeddings) or `decoder` (logits after the prompt and each step).
        precision: What its weights are stored in.
        prompts: Prompts compared.
        max_abs_error: Largest absolute difference.
        cosine: Mean over the vectors of the last axis, in [−1, 1].
        lowest_cosine: That of the worst vector.
        vectors: How many there were.
        index_agreement: `router`: share of the reference's sources found again; None where none names a source.
        greedy_agreement: `decoder`: steps with the reference's most likely token.
    """

    component: str
    precision: str
    prompts: int
    max_abs_error: float | None
    cosine: float | None
    lowest_cosine: float | None
    vectors: int
    index_agreement: float | None = None
    greedy_agreement: float | None = None

    @property
    def is_finite(self) -> bool:
        """Whether every output of the component was finite."""
        return self.max_abs_error is not None


class NumericParity(Record):
    """Everything numeric about one candidate against the reference.

    Attributes:
        components: Component by component, on the reference's inputs.
        tokens: Greedy answers of the whole chain.
        routing: The router's choices within the whole chain; None without a router on both sides.
        routing_reason: Why there is no `routing`, where the reference has one.
        missing: Components that the reference ran on these prompts and the candidate lacks.
    """

    components: tuple[ComponentParity, ...]
    tokens: TokenAgreement
    routing: RoutingAgreement | None
    routing_reason: str | None = None
    missing: tuple[str, ...] = ()

    def expected(self) -> list[str]:
        """Return the components that the reference ran, in the order in which they run."""
        known = {one.component for one in self.components} | set(self.missing)
        return [name for name in COMPONENTS if name in known]

    def component(self, name: str) -> ComponentParity | None:
        """Return the figures of one component, or None where it was not compared."""
        return next((one for one in self.components if one.component == name), None)


class BenchCandidate(Record):
    """One bundle on one provider.

    Attributes:
        name: How rows of the report call it.
        source: The bundle folder.
        provider: As asked for; None for the runtime's own choice.
        reason: Why nothing was measured, which leaves all the figures below out; None where it was.
        backend: What ran it.
        libraries_memory_bytes: The part of `peak_memory_bytes` that stood before the weights were loaded.
        router: Time to first token with the router on and off; None without a router.
        parity: Against the reference; None for the reference itself and without `--parity`.
    """

    name: str
    source: str
    target: str
    precision: str
    provider: str | None
    engines: tuple[str, ...]
    reason: str | None = None
    backend: str | None = None
    weights_bytes: int | None = None
    load_seconds: float | None = None
    peak_memory_bytes: int | None = None
    libraries_memory_bytes: int | None = None
    timings: tuple[Timing, ...] = ()
    router: RouterOverhead | None = None
    parity: NumericParity | None = None


class SpeedPair(Record):
    """Two candidates timed in turns on the same prompts.

    Attributes:
        kind: What the pair differs in.
        candidate: Whose time is above the line.
        baseline: Whose is below.
        ttft: Median of the paired ratios of the time to first token; None where either was not measured.
        tpot: The same of the mean time of each further token of an answer.
    """

    kind: PairKind
    candidate: str
    baseline: str
    ttft: PairedRatio | None
    tpot: PairedRatio | None


class BenchReport(VersionedReport):
    """A whole run of `bench`.

    Attributes:
        reference: Name and source of what numeric parity refers to; None where it was not measured.
        boundary: What is inside a time.
    """

    command: ClassVar[str] = "bench"
    kind: ClassVar[FolderKind] = report_kind("bench report", "bench", "prompts", "candidates")
    current_version: ClassVar[int] = BENCH_SCHEMA_VERSION

    schema_version: int = BENCH_SCHEMA_VERSION
    boundary: str = BOUNDARY
    threads: int
    thread_wait: ThreadWait = "sleep"
    repeats: int
    warm_up_rows: int
    max_new_tokens: int
    seed: int
    prompts: tuple[PromptFacts, ...]
    reference: str | None = None
    candidates: tuple[BenchCandidate, ...]
    pairs: tuple[SpeedPair, ...]
    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate passed; True without gates."""
        return all(gate.passed for gate in self.gates)

    def summary(self) -> str:
        """Return the report as JSON without raw samples, which `bench.json` keeps."""
        return report_text(self, samples=False)
