"""Granularities of weight quantization, as ONNX `DequantizeLinear` defines them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moir_edge.arguments import check_fields
from moir_edge.errors import ShapeError

__all__ = ["BLOCK_SIZES", "Granularity", "PerBlock", "PerOutputChannel", "check_block_size"]

BLOCK_SIZES = (16, 32, 64, 128, 256)
"""Rows of a block; ONNX Runtime fuses these."""


def check_block_size(size: int, name: str = "block_size") -> None:
    """Refuse a size that is not one of `BLOCK_SIZES`.

    Args:
        size: Rows of a block.
        name: What the caller calls it.

    Raises:
        ShapeError: Says which are.
    """
    if size not in BLOCK_SIZES:
        *others, last = BLOCK_SIZES
        raise ShapeError(
            f"{name} is {size}; expected {', '.join(map(str, others))} or {last}, which the runtimes' kernels take"
        )


@dataclass(frozen=True, kw_only=True)
class PerOutputChannel:
    """One scale per column of a (K, N) weight, K being summed over by MatMul.

    (K, N) → scale (N,), `DequantizeLinear(axis=1)`. A (576, 1536) weight has 1,536 scales: 0.007 bytes of
    scale per weight.
    """

    def scale_shape(self, weight_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the scale's shape for a weight of `weight_shape` (K, N)."""
        return (_matrix(weight_shape)[1],)

    def block_rows(self, weight_shape: Sequence[int]) -> int:
        """Return how many rows share a scale: all K."""
        return _matrix(weight_shape)[0]

    @property
    def attributes(self) -> dict[str, int]:
        """Attributes of `DequantizeLinear`."""
        return {"axis": 1}


@dataclass(frozen=True, kw_only=True)
class PerBlock:
    """One scale per `block_size` rows of each column of a (K, N) weight.

    (K, N) → scale (K / block_size, N), `DequantizeLinear(axis=0, block_size=…)`. A (576, 1536) weight in
    blocks of 32 has (18, 1536) = 27,648 scales: 4 bytes for 32 weights, so INT4 takes 5 bits per weight.

    Attributes:
        block_size: Rows per scale, one of `BLOCK_SIZES`.
    """

    block_size: int = 32

    def __post_init__(self) -> None:
        check_fields(self)
        check_block_size(self.block_size)

    def scale_shape(self, weight_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the scale's shape for a weight of `weight_shape` (K, N)."""
        rows, columns = _matrix(weight_shape)
        return (rows // self.block_rows(weight_shape), columns)

    def block_rows(self, weight_shape: Sequence[int]) -> int:
        """Return how many rows share a scale.

        Raises:
            ShapeError: K is not a multiple of the block size.
        """
        rows, _ = _matrix(weight_shape)
        if rows % self.block_size or rows < self.block_size:
            raise ShapeError(
                f"a weight of shape {tuple(weight_shape)} has {rows} input rows, no multiple of the "
                f"block size {self.block_size}; quantize it per output channel"
            )
        return self.block_size

    @property
    def attributes(self) -> dict[str, int]:
        """Attributes of `DequantizeLinear`."""
        return {"axis": 0, "block_size": self.block_size}


Granularity = PerOutputChannel | PerBlock


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) != 2:
        raise ShapeError(f"a weight of shape {tuple(shape)} is not a (K, N) matrix")
    return shape[0], shape[1]
