"""The schema of `manifest.json`, the one file that tells what a bundle holds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from moir_edge.bundle.files import path_problem
from moir_edge.precisions import PrecisionName, Product

__all__ = [
    "COMPONENTS",
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "ComponentEntry",
    "EngineEntry",
    "FileEntry",
    "FusedEntry",
    "ImageGrid",
    "Manifest",
    "ModelFacts",
    "SourceEntry",
    "TableEntry",
    "TensorPlace",
    "TensorSpec",
    "manifest_sha256",
]

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
COMPONENTS = ("vision", "embedding", "router", "decoder")


def _inside(path: str) -> str:
    problem = path_problem(path)
    if problem is not None:
        raise ValueError(f"the path {path!r} {problem}")
    return path


FilePath = Annotated[str, StringConstraints(max_length=1024), AfterValidator(_inside)]
"""A path inside the bundle, with forward slashes."""

ToolPath = Annotated[FilePath, StringConstraints(pattern=r"^[\w./-]+$")]
"""One that scripts and other tools are given, hence without blanks and quotes."""

Digest = Annotated[str, StringConstraints(pattern="^[!-~]{0,64}$")]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Size = Annotated[int, Field(ge=1, le=1 << 24)]
"""A width or a number of parts."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class TensorSpec(_Entry):
    """One graph input or output; a string in `shape` is a dynamic axis, e.g. ``["batch", "sequence", 192]``."""

    name: str
    dtype: str
    shape: tuple[Count | str, ...]

    @property
    def is_cache(self) -> bool:
        """Whether it holds keys or values of one layer of the decoder."""
        return self.name.startswith(("past_key_values.", "present."))


class FileEntry(_Entry):
    """One file of the bundle; `path` is relative to the bundle folder, with forward slashes."""

    path: FilePath
    bytes: Count
    sha256: Digest


class TensorPlace(_Entry):
    """Numbers in a file of the bundle: row after row, the low byte of each first, from the byte `offset` on."""

    file: ToolPath
    offset: Count
    dtype: Literal["float32", "float16", "bfloat16", "int8"]
    shape: Annotated[tuple[Size, ...], Field(min_length=1, max_length=2)]

    @property
    def end(self) -> int:
        """The byte of the file after the last one."""
        item = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[self.dtype]
        return self.offset + item * math.prod(self.shape)


class TableEntry(_Entry):
    """Token table of a graph `embedding` that is nothing but a look-up in it.

    Attributes:
        values: (tokens, hidden) floats; or (hidden, tokens) int8, as a tied head reads them.
        scale: (tokens,) in float32 or float16, by which int8 values are multiplied in its type; None for float values.
        factor: Number by which what was looked up is multiplied in float32; None for none.
    """

    values: TensorPlace
    scale: TensorPlace | None = None
    factor: Annotated[float, Field(allow_inf_nan=False)] | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens in the table."""
        return self.values.shape[0 if self.scale is None else -1]

    @property
    def hidden(self) -> int:
        """Numbers of one token."""
        return self.values.shape[-1 if self.scale is None else 0]


class FusedEntry(_Entry):
    """A component's graph once more, as ONNX Runtime computes it fastest: its operators are known to no other runtime.

    It reads the weights of the component that it belongs to. A decoder's keys and values lie in one buffer, which each run
    writes into. `inputs` are those that the component does not have, and `without` names those that only the component has;
    outputs are the component's.
    """

    graph: ToolPath
    inputs: tuple[TensorSpec, ...] = ()
    without: tuple[str, ...] = ()

    def inputs_of(self, component: ComponentEntry) -> tuple[TensorSpec, ...]:
        """Return all inputs of this form of a component."""
        kept = (spec for spec in component.inputs if spec.name not in self.without)
        return (*kept, *self.inputs)


class ComponentEntry(_Entry):
    """One exported graph; `data` names the external weight files it reads, which components may share.

    `structure_sha256` covers its operators and the shapes of its weights, `weights_sha256` their values: a graph that differs in
    the second alone can be refitted. `tensor_bytes` are stored with the component, `weight_bytes` are all that it reads,
    and `operators` counts its nodes. All but `tensor_bytes` are None in a bundle of an earlier version. A quantized graph in `gpu_form` computes in float16 what
    is not quantized, as an engine does; otherwise in float32, as a CPU does. `table` tells where the graph `embedding` looks its
    tokens up, if it does nothing else; None in a bundle of an earlier version.
    """

    graph: ToolPath
    data: tuple[ToolPath, ...] = ()
    structure_sha256: str | None = None
    weights_sha256: str | None = None
    precision: PrecisionName
    gpu_form: bool = False
    fused: FusedEntry | None = None
    tensor_bytes: Count
    weight_bytes: Count | None = None
    operators: Count | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    table: TableEntry | None = None


class EngineEntry(_Entry):
    """One compiled engine and what it needs in order to load; `compute` is the type its matrix products run in.

    `graph_sha256` is that of `moir_edge.bundle.component_sha256` at the time of the build, `profiles_sha256` covers the ranges
    of its axes. A `stripped` engine holds no weights and takes them from the graph when it is loaded; a `refittable` one can be
    given others. `peak_memory_bytes` is the build's on the host; None where it was not measured.
    """

    component: str
    target: str
    path: ToolPath
    builder: Literal["tensorrt_rtx", "tensorrt"]
    builder_version: str
    compute_capability: str
    compute: Product
    graph_sha256: str = ""
    profiles_sha256: str = ""
    stripped: bool = False
    refittable: bool = False
    bytes: Count = 0
    build_seconds: float
    peak_memory_bytes: Count | None = None


class SourceEntry(_Entry):
    """The checkpoint that the bundle was made from; `sha256` covers its weight files in name order."""

    name: str
    sha256: str
    architecture: str


class ImageGrid(_Entry):
    """Grid of the image tokens on one square tile, row after row.

    Attributes:
        side: Cells per row, and rows.
        first: The cell of the first token, counted from the upper left: 1 where the tower's first patch is dropped, -1
            where a class token stands before the patches.
        cell: Side of one cell as a fraction of the tile's; `side` cells leave a rim where the patch size does not
            divide the tile.
    """

    side: Annotated[int, Field(ge=1, le=1 << 12)]
    first: Annotated[int, Field(ge=-1, le=1)] = 0
    cell: Annotated[float, Field(gt=0, le=1)]

    @property
    def tokens(self) -> int:
        """Image tokens of one tile."""
        return self.side**2 - self.first

    @classmethod
    def of_tokens(cls, tokens: int) -> ImageGrid:
        """Return the grid that so many tokens lie on, for a manifest that does not name one.

        One token more than a square is a class token, one fewer a dropped patch; no number is both.
        """
        side = math.isqrt(tokens + 1)
        first = side**2 - tokens
        if first not in (0, 1):
            side = math.isqrt(tokens)
            first = side**2 - tokens
        return cls(side=side, first=first, cell=1 / side)


class ModelFacts(_Entry):
    """Facts of the model that the runtime cannot read from the graphs."""

    model_type: str
    hidden_size: Size
    num_layers: Size
    num_kv_heads: Size
    head_dim: Size
    vocab_size: Size
    context_length: Size
    image_token_id: Count
    eos_token_ids: tuple[int, ...]
    pad_token_id: Count
    special_token_ids: tuple[int, ...]
    newline_token_ids: tuple[int, ...] = Field(
        default=(), description="newlines between two image tokens take no part; empty: they do"
    )
    image_size: Size | None = Field(
        default=None,
        description="side of a square tile, px; null where images have no tiles of one size",
    )
    tokens_per_tile: Size | None = Field(default=None, description="null as image_size")
    image_grid: ImageGrid | None = Field(
        default=None, description="absent from bundles made before it was written down"
    )
    family: dict[str, Any] = Field(
        default_factory=dict, description="what the host needs of the config besides, by family"
    )

    @property
    def grid(self) -> ImageGrid:
        """Grid of the image tokens on a tile; of one token where images have no tiles of one size."""
        return self.image_grid or ImageGrid.of_tokens(self.tokens_per_tile or 1)


class Manifest(_Entry):
    """The whole manifest; every file of the bundle but the manifest itself stands in `files`."""

    schema_version: int = SCHEMA_VERSION
    created_with: dict[str, str] = Field(description="package name -> version, moir-edge first")
    source: SourceEntry
    model: ModelFacts
    target: str
    precision: PrecisionName
    router: dict[str, Any] | None
    router_sha256: str | None
    components: dict[str, ComponentEntry]
    engines: tuple[EngineEntry, ...] = ()
    calibration: dict[str, Any] | None = Field(
        default=None,
        description="component name -> what quantization did; data -> the rows it saw; mix -> how layers were chosen",
    )
    notes: tuple[str, ...] = Field(
        default=(), description="what export replaced in the checkpoint's settings, a sentence each"
    )
    parity: dict[str, Any] = Field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()
    manifest_sha256: Digest | None = Field(
        default=None,
        description="SHA-256 of this record without this key; absent from bundles made before",
    )


def manifest_sha256(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest: its JSON without blanks, keys in order, only ASCII, `manifest_sha256` left out.

    Args:
        record: The object in `manifest.json`.
    """
    rest = {key: value for key, value in record.items() if key != "manifest_sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
