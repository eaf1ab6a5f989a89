"""What each precision means for one layer: how its weight is stored, and whether its activation is stored so too."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from moir_edge.calibration.granularity import Granularity, PerBlock, PerOutputChannel
from moir_edge.errors import UnsupportedError, closest

__all__ = ["FORMATS", "LayerFormat", "get_format"]


@dataclass(frozen=True, kw_only=True)
class LayerFormat:
    """How one layer is stored.

    Attributes:
        precision: Its name.
        bits: Of a weight.
        storage: ONNX type of the weight.
        blocks: Whether a block of rows shares a scale, rather than the whole column.
        activation: Whether the activation passes through the same number of bits, which needs calibration data.
        fallback: Precision of a layer that this one cannot hold, or whose activation it would spoil.
    """

    precision: str
    bits: int
    storage: ir.DataType
    blocks: bool = False
    activation: bool = False
    fallback: str = "fp32"

    def granularity(self, block_size: int) -> Granularity:
        """Return which weights share a scale."""
        return PerBlock(block_size=block_size) if self.blocks else PerOutputChannel()


FORMATS: dict[str, LayerFormat] = {
    format_.precision: format_
    for format_ in (
        LayerFormat(precision="int8-weight-only", bits=8, storage=ir.DataType.INT8),
        LayerFormat(
            precision="int8",
            bits=8,
            storage=ir.DataType.INT8,
            activation=True,
            fallback="int8-weight-only",
        ),
        LayerFormat(
            precision="int4",
            bits=4,
            storage=ir.DataType.INT4,
            blocks=True,
            fallback="int8-weight-only",
        ),
    )
}
"""Every quantized precision by name."""


def get_format(precision: str) -> LayerFormat:
    """Return the format of that name.

    Raises:
        UnsupportedError: No such format; the message names the closest one.
    """
    if precision not in FORMATS:
        raise UnsupportedError(f"cannot quantize to {precision!r}: {closest(precision, FORMATS)}")
    return FORMATS[precision]
