"""Request and answer of one engine build, as plain data that passes between processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moir_edge.bundle import ComponentEntry
from moir_edge.bundle.profiles import Profile
from moir_edge.targets import Target
from moir_edge.tensorrt_api import BuilderName

__all__ = [
    "BuildJob",
    "BuildOutcome",
    "ShapeTable",
    "shape_tables",
    "tables_sha256",
    "workspace_bytes",
]

ShapeTable = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Input name to its smallest, most usual and largest shape: one optimization profile."""

# A kernel may ask for this share of the target's memory as scratch; the rest is for weights, cache and the system.
_WORKSPACE_SHARE = 4
# Assumed where the memory varies within a family of GPUs: the smallest that is usual.
_USUAL_MEMORY_GB = 8


@dataclass(frozen=True, kw_only=True)
class BuildJob:
    """One graph to compile.

    Attributes:
        builder: The module that compiles it.
        graph: The ONNX file; external data lies relative to its folder.
        output: Where the engine goes.
        target: Name of the target, for messages.
        sm: The target's compute capability times ten.
        workspace: Scratch memory that a kernel may ask for on the device, in bytes.
        profiles: Optimization profiles, in the order in which the engine holds them.
        strip_weights: Leave the weights out of the engine.
        refittable: Let the engine take other weights.
        refit_from: An engine of the same structure, to be given the graph's weights on this GPU in place of a build.
        timing_cache: What earlier builds on this device measured; read if it is there, and written. None for none.
    """

    builder: BuilderName
    graph: str
    output: str
    target: str
    sm: int
    workspace: int
    profiles: tuple[ShapeTable, ...]
    strip_weights: bool = False
    refittable: bool = False
    refit_from: str | None = None
    timing_cache: str | None = None

    def to_json(self) -> str:
        """Return the job as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BuildJob:
        """Return the job that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        tables = tuple(
            {
                name: (tuple(least), tuple(usual), tuple(most))
                for name, (least, usual, most) in table.items()
            }
            for table in fields.pop("profiles")
        )
        return cls(profiles=tables, **fields)


@dataclass(frozen=True, kw_only=True)
class BuildOutcome:
    """Cost of a build.

    Attributes:
        builder_version: Version of the module that compiled it.
        seconds: Wall time, reading the graph and writing the engine included.
        peak_memory_bytes: Most resident memory of the process that compiled it.
    """

    builder_version: str
    seconds: float
    peak_memory_bytes: int


def shape_tables(component: ComponentEntry, profiles: Sequence[Profile]) -> tuple[ShapeTable, ...]:
    """Return the shapes of a component's inputs under each profile.

    Raises:
        UnsupportedError: An input has an axis that no profile knows.
    """
    return tuple(
        {tensor.name: profile.sizes(tensor.name, tensor.shape) for tensor in component.inputs}
        for profile in profiles
    )


def tables_sha256(tables: Sequence[ShapeTable]) -> str:
    """Return the hash that an engine's entry keeps of its profiles."""
    return hashlib.sha256(json.dumps(tables).encode()).hexdigest()


def workspace_bytes(target: Target) -> int:
    """Return how much scratch memory a kernel may ask for on a target."""
    return ((target.memory_gb or _USUAL_MEMORY_GB) << 30) // _WORKSPACE_SHARE
