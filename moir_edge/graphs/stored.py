"""Weights of a graph as float32 that is made when it is asked for, so that a graph holds no copy of its checkpoint."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from moir_edge.errors import UnsupportedError

__all__ = [
    "PIECE_BYTES",
    "JoinedTensor",
    "NarrowTensor",
    "PiecewiseTensor",
    "StoredTensor",
    "StoredWeight",
    "pieces",
    "transposed",
]

PIECE_BYTES = 1 << 24
"""About how many bytes of a weight are made at once where it is written."""

Floats = npt.NDArray[np.float32]


class StoredWeight(Protocol):
    """A weight where it lies, in whatever floating type.

    Attributes:
        shape: Its shape.
        key: Equal for two objects that stand for the same memory.
        storage: Type in which it lies.
    """

    shape: tuple[int, ...]
    key: Hashable
    storage: ir.DataType

    def read(self, *part: slice) -> Floats:
        """Return a part as float32, which may share memory with the weight; without slices all of it."""
        ...

    def give_back(self) -> None:
        """Let the system take back the memory pages that reads have brought in; they come again when read."""
        ...


class PiecewiseTensor(ir.LazyTensor):
    """A tensor that is made when it is asked for, whole or in pieces, and keeps nothing of what it makes."""

    @property
    def key(self) -> Hashable:
        """Equal for two tensors that are the same bytes; None where that is not known."""
        return None

    def tobytes(self) -> bytes:
        """Return all bytes, row after row."""
        return b"".join(piece.tobytes() for piece in self.pieces())

    def tofile(self, file: Any) -> None:
        """Write all bytes, a piece at a time."""
        for piece in self.pieces():
            file.write(piece)

    @abstractmethod
    def pieces(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the rows in order, some at a time, each contiguous."""


class StoredTensor(PiecewiseTensor):
    """A float32 tensor of a graph whose numbers stay where they lie; it keeps nothing of what it makes.

    Args:
        weight: Where the numbers lie.
        is_transposed: Whether the tensor is the transposed weight, a matrix.
        name: Of the tensor.
    """

    def __init__(
        self, weight: StoredWeight, *, is_transposed: bool = False, name: str | None = None
    ) -> None:
        shape = tuple(reversed(weight.shape)) if is_transposed else weight.shape
        super().__init__(self._made, ir.DataType.FLOAT, ir.Shape(shape), name=name)
        self._weight = weight
        self._is_transposed = is_transposed

    @property
    def key(self) -> Hashable:
        """Equal for two tensors that are the same bytes."""
        return self._weight.key, self._is_transposed

    @property
    def storage(self) -> ir.DataType:
        """Type in which the numbers lie; rounding to it changes none of them."""
        return self._weight.storage

    def transposed(self) -> StoredTensor:
        """Return the tensor with its two axes exchanged; nothing is read."""
        return StoredTensor(self._weight, is_transposed=not self._is_transposed, name=self.name)

    def _made(self) -> ir.Tensor[Floats]:
        """Return all of it; a transposed one as a view, as `numpy.ndarray.T` is."""
        array = self._weight.read()
        self._weight.give_back()
        return ir.Tensor(array.T if self._is_transposed else array, name=self.name)

    def pieces(self) -> Iterator[Floats]:
        """Yield the rows in order, as many at a time as have about `PIECE_BYTES`, each contiguous."""
        rows, *rest = self.shape.numpy() or (1,)
        step = max(1, PIECE_BYTES // (4 * max(1, math.prod(rest))))
        for start in range(0, rows, step):
            part = slice(start, start + step)
            yield np.ascontiguousarray(self._rows(part))
        self._weight.give_back()

    def _rows(self, part: slice) -> Floats:
        if self._is_transposed:
            return self._weight.read(slice(None), part).T
        return self._weight.read(part) if self.shape.rank() else self._weight.read()


class NarrowTensor(PiecewiseTensor):
    """A float32 tensor rounded to a narrower float, to nearest with ties to even.

    Args:
        wide: The float32 tensor.
        dtype: FLOAT16 or BFLOAT16.
        name: Of the tensor.
    """

    def __init__(self, wide: ir.TensorProtocol, dtype: ir.DataType, name: str) -> None:
        super().__init__(self._made, dtype, ir.Shape(wide.shape.numpy()), name=name)
        self._wide = wide

    @property
    def key(self) -> Hashable:
        """Equal for two tensors that are the same bytes; None where that is not known."""
        own = self._wide.key if isinstance(self._wide, PiecewiseTensor) else None
        return None if own is None else (own, self.dtype)

    def _made(self) -> ir.Tensor[npt.NDArray[Any]]:
        return ir.Tensor(self._rounded(self._wide.numpy()), dtype=self.dtype, name=self.name)

    def pieces(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the rows in order, some at a time, each contiguous; as bytes, since buffers have no bfloat16."""
        wide = self._wide
        parts = wide.pieces() if isinstance(wide, PiecewiseTensor) else [wide.numpy()]
        for part in parts:
            yield np.ascontiguousarray(self._rounded(part)).view(np.uint16)

    def _rounded(self, numbers: Floats) -> npt.NDArray[Any]:
        """Return the rounded numbers.

        Raises:
            UnsupportedError: One is past the range.
        """
        with np.errstate(over="ignore"):
            rounded: npt.NDArray[Any] = numbers.astype(self.dtype.numpy())
        if not np.isfinite(rounded).all():
            largest = float(np.abs(numbers).max())
            raise UnsupportedError(
                f"the weight {self.name!r} reaches {largest:.3g}, past the range of {self.dtype.name.lower()}; "
                "export its component in fp32"
            )
        return rounded


class JoinedTensor(PiecewiseTensor):
    """Tensors side by side along their last axis, of one type and otherwise one shape.

    Args:
        parts: In order.
        name: Of the tensor.
    """

    def __init__(self, parts: Sequence[ir.TensorProtocol], *, name: str) -> None:
        *rows, _ = parts[0].shape.numpy()
        width = sum(int(part.shape.numpy()[-1]) for part in parts)
        super().__init__(self._made, parts[0].dtype, ir.Shape((*rows, width)), name=name)
        self._parts = tuple(parts)

    @property
    def key(self) -> Hashable:
        """Equal for two tensors that are the same bytes; None where that is not known."""
        keys = [one.key if isinstance(one, PiecewiseTensor) else None for one in self._parts]
        return None if None in keys else ("side by side", *keys)

    def _made(self) -> ir.TensorProtocol:
        joined = np.concatenate([np.asarray(part.numpy()) for part in self._parts], axis=-1)
        if self.dtype.bitwidth == 4:
            packed = np.frombuffer(ir.Tensor(joined, dtype=self.dtype).tobytes(), np.uint8)
            return ir.PackedTensor(packed, self.dtype, shape=self.shape, name=self.name)
        return ir.Tensor(joined, dtype=self.dtype, name=self.name)

    def pieces(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the bytes: one tensor of this kind is a layer's, never a vocabulary's."""
        yield np.frombuffer(self._made().tobytes(), np.uint8)


def transposed(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a matrix with its axes exchanged, without a copy."""
    if isinstance(tensor, StoredTensor):
        return tensor.transposed()
    return ir.Tensor(np.asarray(tensor.numpy()).T, dtype=tensor.dtype, name=tensor.name)


def pieces(tensor: ir.TensorProtocol) -> Iterator[Any]:
    """Yield a tensor's bytes in order, as objects with the buffer protocol; little of a large stored one at a time."""
    if isinstance(tensor, PiecewiseTensor):
        yield from tensor.pieces()
    else:
        yield tensor.tobytes()
