"""Granularities of weight quantization, as ONNX `DequantizeLinear` defines them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moir_edge.arguments import check_fields
from moir_edge.errors import ShapeError

__all__ = ["Granularity", "PerBlock", "PerOutputChannel"]


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
        block_size: Rows per scale; a power of two from 16 to 256, which is what ONNX Runtime fuses.
    """

    block_size: int = 32

    def __post_init__(self) -> None:
        check_fields(self)
        if self.block_size not in (16, 32, 64, 128, 256):
            raise ShapeError(
                f"block_size is {self.block_size}; expected 16, 32, 64, 128 or 256, which the runtimes' "
                "kernels take"
            )

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
