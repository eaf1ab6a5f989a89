"""The protocol that a checkpoint and a bundle share, and the records that cross the process boundary."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from moir_edge.data.answers import Answer, RoutingRow
from moir_edge.data.rows import Row
from moir_edge.errors import DataError
from moir_edge.runtime.pruning import DENSITY

if TYPE_CHECKING:
    from moir_edge.evaluation.candidates.components import ComponentRun

__all__ = [
    "Candidate",
    "CandidateFacts",
    "CandidateSpec",
    "ComponentCandidate",
    "Kind",
    "Loaded",
    "Reply",
    "TimedAnswer",
    "spec_of",
    "specs_of",
]

Kind = Literal["checkpoint", "bundle"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class CandidateSpec:
    """Description of a candidate to load.

    Attributes:
        name: How reports call it, unique in one comparison.
        source: Folder of a checkpoint or bundle, or the hub id of a checkpoint.
        kind: Which of the two.
        threads: Threads for one operation.
        max_new_tokens: Longest answer, in tokens.
        provider: What runs a bundle, a provider of the runtime by name; None takes the runtime's own choice.
        prune_image_tokens: Share of the image tokens that a bundle drops while its router is on.
        prune_by: How they are chosen, a selector of the runtime by name.
    """

    name: str
    source: str
    kind: Kind
    threads: int
    max_new_tokens: int
    provider: str | None = None
    prune_image_tokens: float = 0.0
    prune_by: str = DENSITY


@dataclass(frozen=True, kw_only=True)
class CandidateFacts:
    """Facts of a loaded candidate.

    Attributes:
        precision: Of the whole, such as ``"fp32"``.
        component_precisions: Component -> precision.
        weights_bytes: Bytes of the files that hold weights (and graphs); engines, tokenizer and reports excluded.
        has_router: Whether answers can be had with the router on and off.
        backend: Library and version that runs it.
        providers: Component -> what runs it, as the runtime says after loading.
    """

    precision: str
    component_precisions: Mapping[str, str]
    weights_bytes: int
    has_router: bool
    backend: str
    providers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class TimedAnswer:
    """A greedy answer at batch 1, with its times.

    Attributes:
        answer: The answer.
        ttft_ms: From decoded images and text in memory to the first token: preprocessing, tokenizer, vision,
            embedding, router, prefill and the choice of the token.
        component_ms: The parts of `ttft_ms` by name; they sum up to it.
        token_ms: Time of each further token (the end token too), in order.
        energy_j: Energy of the whole board from the call to the answer; None where the machine has no sensor.
    """

    answer: Answer
    ttft_ms: float
    component_ms: Mapping[str, float]
    token_ms: tuple[float, ...]
    energy_j: float | None = None


@dataclass(frozen=True)
class Loaded:
    """Report of a candidate that is ready; the memory is that of the process before loading."""

    facts: CandidateFacts
    load_seconds: float
    libraries_memory_bytes: int


@dataclass(frozen=True)
class Reply:
    """Answer to one command: a value, a deliberate error (class name and text), what ran out, or a traceback."""

    value: Any = None
    error: tuple[str, str] | None = None
    ran_out: str | None = None
    traceback: str | None = None


class Candidate(Protocol):
    """A loaded model that answers rows greedily."""

    @property
    def facts(self) -> CandidateFacts:
        """Facts of this candidate."""

    def answer(self, rows: Sequence[Row]) -> list[Answer]:
        """Answer a batch of rows, the router on if there is one."""

    def timed(self, row: Row, *, router: bool, max_new_tokens: int) -> TimedAnswer:
        """Answer one row and time it."""

    def route(self, rows: Sequence[Row]) -> list[RoutingRow]:
        """Return the routing map of each row; only where `facts.has_router`."""


@runtime_checkable
class ComponentCandidate(Protocol):
    """A candidate whose components can be run one by one: a bundle."""

    def components(self, row: Row, feed: ComponentRun | None, steps: int) -> ComponentRun:
        """Run each component once on one row; see `run_components`."""


def spec_of(
    source: str | Path, *, threads: int, max_new_tokens: int, hub: bool = False
) -> CandidateSpec:
    """Tell a bundle (a folder with a manifest) from a checkpoint (a folder with a config, or a hub id).

    Args:
        source: What the user named.
        threads: Threads for one operation.
        max_new_tokens: Longest answer, in tokens.
        hub: Take `owner/name` for a hub id where no such folder exists.

    Raises:
        DataError: It is neither, or an adapter.
        UnsupportedError: Another tool quantized it.
    """
    from moir_edge.bundle.manifest import MANIFEST_NAME
    from moir_edge.weights.foreign import describe_file

    path = Path(source)
    if path.is_file():
        raise DataError(f"{source} is neither a bundle nor a checkpoint: {describe_file(path)}")
    kind: Kind = "bundle" if (path / MANIFEST_NAME).is_file() else "checkpoint"
    if not path.is_dir() and not (hub and _HUB_ID.fullmatch(str(source))):
        raise DataError(f"{source}: no such folder; give a bundle or a checkpoint")
    if kind == "checkpoint" and path.is_dir():
        _check_folder(path)
    name = path.resolve().name if path.is_dir() else str(source)
    return CandidateSpec(
        name=name, source=str(source), kind=kind, threads=threads, max_new_tokens=max_new_tokens
    )


def _check_folder(path: Path) -> None:
    """Refuse a folder that its small files show to be something else, before a process is started for it."""
    from moir_edge.bundle.manifest import MANIFEST_NAME
    from moir_edge.weights.files import ADAPTER, check_record
    from moir_edge.weights.foreign import describe_folder

    if not any((path / name).is_file() for name in ("config.json", ADAPTER)):
        found = describe_folder(path)
        raise DataError(
            f"{path} is neither a bundle (no {MANIFEST_NAME}) nor a checkpoint (no config.json)"
            f"{f': {found}' if found else ''}"
        )
    check_record(path)


def specs_of(
    sources: Sequence[str | Path], *, threads: int, max_new_tokens: int, hub: Container[int]
) -> list[CandidateSpec]:
    """Describe several candidates; two folders of the same name are told apart by their whole path.

    Args:
        sources: What the user named.
        threads: Threads for one operation.
        max_new_tokens: Longest answer, in tokens.
        hub: Places in `sources` at which a hub id may stand.

    Raises:
        DataError: One is neither a bundle nor a checkpoint, or is named twice.
    """
    specs = [
        spec_of(one, threads=threads, max_new_tokens=max_new_tokens, hub=at in hub)
        for at, one in enumerate(sources)
    ]
    for source, times in Counter(spec.source for spec in specs).items():
        if times > 1:
            raise DataError(f"{source} is given {times} times; name every candidate once")
    names = Counter(spec.name for spec in specs)
    return [spec if names[spec.name] == 1 else replace(spec, name=spec.source) for spec in specs]
