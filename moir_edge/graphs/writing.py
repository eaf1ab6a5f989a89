"""Write graphs with their weights outside, so that a weight which two components use lies on disk once."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from moir_edge.graphs.naming import number_values
from moir_edge.graphs.stored import PiecewiseTensor, pieces
from moir_edge.temporary import TemporaryFolder

__all__ = ["EXTERNAL_BYTES", "WrittenGraph", "write_beside", "write_graphs", "written_graphs"]

# Smaller tensors, for which a file name and place cost more than they save, and every integer constant that a shape
# may need stay in the graph.
EXTERNAL_BYTES = 256
_ALIGNMENT = 64
_PRODUCER = "moir-edge"
_NAMED_OPERATORS = frozenset({"MatMul", "Gemm", "Conv", "Gather"})


@dataclass(frozen=True, kw_only=True)
class WrittenGraph:
    """Files of one component.

    Attributes:
        graph: File name of the ONNX graph.
        data: File names of the weights that it reads; the first is its own unless it has none.
        tensor_bytes: Bytes of the tensors stored with this component; one that another component stored
            first counts there.
        weight_bytes: Bytes of all its tensors, wherever they are stored.
        operators: Number of nodes, those of functions counted once.
        structure_sha256: Hash of the operators, the interface, and the names, types and shapes of the weights.
        weights_sha256: Hash of the weights' values. Neither changes with the place where a weight lies.
    """

    graph: str
    data: tuple[str, ...]
    tensor_bytes: int
    weight_bytes: int
    operators: int
    structure_sha256: str
    weights_sha256: str


@dataclass
class _Place:
    file: str
    offset: int
    length: int


@dataclass
class _Store:
    """Content digest of every tensor on disk, with its place, and the digests of weights that were read.

    `hasher` is one thread: a piece is hashed while it is written.
    """

    folder: Path
    hasher: ThreadPoolExecutor
    places: dict[str, _Place] = field(default_factory=dict)
    read: dict[Hashable, str] = field(default_factory=dict)


def write_graphs(models: Mapping[str, ir.Model], folder: Path) -> dict[str, WrittenGraph]:
    """Write ``<component>.onnx`` and ``<component>.data`` for each component.

    Args:
        models: Component name to model, in the order of storage: the embedding before the decoder that
            shares its table. The models are left as they are.
        folder: An existing folder.

    Returns:
        What was written, by component name.
    """
    with ThreadPoolExecutor(1, "moir-edge-hash") as hasher:
        store = _Store(folder, hasher)
        return {name: _write_graph(name, model.clone(), store) for name, model in models.items()}


def write_beside(name: str, model: ir.Model, folder: Path) -> str:
    """Write another form of a graph whose weights lie in the folder already, and return its file name.

    Args:
        name: Of the file, without an ending.
        model: Loaded from that folder; small constants of its own go into the file. Edited in place.
        folder: Where the weights lie.
    """
    _strip(model)
    for at, value in enumerate(list(model.graph.initializers.values())):
        value.name = f"w{at}"  # the other form names them
    for node in model.graph:
        node.name = None
    proto = _serializable(model)
    (folder / f"{name}.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    return f"{name}.onnx"


@contextmanager
def written_graphs(models: Mapping[str, ir.Model]) -> Iterator[Path]:
    """Write graphs as `write_graphs` does to a folder that lasts as long as the block, and yield it."""
    with TemporaryFolder() as folder:
        write_graphs(models, folder)
        yield folder


def _write_graph(name: str, model: ir.Model, store: _Store) -> WrittenGraph:
    own = f"{name}.data"
    used: set[str] = set()
    stored_bytes = 0
    digests: dict[ir.Value, str] = {}
    with (store.folder / own).open("wb") as stream:
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                continue
            if not _goes_outside(tensor):
                value.const_value = _inside(tensor)
                stored_bytes += tensor.nbytes
                digests[value] = hashlib.sha256(tensor.tobytes()).hexdigest()
                continue
            digests[value], place, is_new = _place(tensor, own, stream, store)
            stored_bytes += place.length if is_new else 0
            used.add(place.file)
            value.const_value = _external(tensor, str(value.name), place, store.folder)
    if own not in used:
        (store.folder / own).unlink()
    _strip(model)
    proto = _serializable(model)
    (store.folder / f"{name}.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    return WrittenGraph(
        graph=f"{name}.onnx",
        data=tuple(sorted(used, key=lambda file: (file != own, file))),
        tensor_bytes=stored_bytes,
        weight_bytes=sum(value.const_value.nbytes for value in digests if value.const_value),
        operators=len(proto.graph.node) + sum(len(body.node) for body in proto.functions),
        structure_sha256=_structure_hash(proto),
        weights_sha256=_weights_hash(digests),
    )


def _goes_outside(tensor: ir.TensorProtocol) -> bool:
    return tensor.nbytes >= EXTERNAL_BYTES and tensor.dtype != ir.DataType.INT64


def _is_weight(dtype: int) -> bool:
    """Say whether a constant of an ONNX type is a weight; the shapes of a compiled graph hang on the others."""
    return dtype not in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


def _structure_hash(proto: onnx.ModelProto) -> str:
    """Hash a graph without its weights; `proto` loses them."""
    for tensor in proto.graph.initializer:
        if _is_weight(tensor.data_type):
            bare = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            tensor.CopyFrom(bare)
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def _weights_hash(digests: Mapping[ir.Value, str]) -> str:
    lines = [
        f"{value.name} {digest}"
        for value, digest in digests.items()
        if value.dtype is not None and _is_weight(value.dtype)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _inside(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return the tensor with its values in memory: the file that it may lie in is another graph's."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)


def _place(
    tensor: ir.TensorProtocol, own: str, stream: BinaryIO, store: _Store
) -> tuple[str, _Place, bool]:
    """Return the tensor's digest, where its bytes lie, writing them if no component has, and whether they are new."""
    key = tensor.key if isinstance(tensor, PiecewiseTensor) else None
    if key in store.read:
        return store.read[key], store.places[store.read[key]], False
    end = stream.tell()
    stream.write(b"\0" * (-end % _ALIGNMENT))
    place = _Place(own, stream.tell(), tensor.nbytes)
    hashed = hashlib.sha256()
    for piece in pieces(tensor):
        hashing = store.hasher.submit(hashed.update, piece)
        stream.write(piece)
        hashing.result()
    digest = hashed.hexdigest()
    if key is not None:
        store.read[key] = digest
    known = store.places.get(digest)
    if known is not None:
        stream.truncate(stream.seek(end))
        return digest, known, False
    store.places[digest] = place
    return digest, place, True


def _external(
    tensor: ir.TensorProtocol, name: str, place: _Place, folder: Path
) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        place.file,
        place.offset,
        place.length,
        tensor.dtype,
        shape=tensor.shape,  # type: ignore[arg-type]  # a static Shape, as every initializer has
        name=name,
        base_dir=folder,
    )


def _strip(model: ir.Model) -> None:
    """Drop what no runtime reads: long names of values, and names of nodes that carry no weight."""
    model.producer_name, model.producer_version = _PRODUCER, None
    model.graph.name = _PRODUCER
    number_values(model)
    for node in model.graph:
        if node.op_type not in _NAMED_OPERATORS or "." not in str(node.name):
            node.name = None


def _serializable(model: ir.Model) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    # Inferred types of intermediate values follow from the operators; every runtime infers them anew.
    del proto.graph.value_info[:]
    return proto
