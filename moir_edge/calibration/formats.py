"""What each precision means for one layer: how its weight is stored, and whether its activation is stored so too."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from moir_edge.calibration.granularity import Granularity, PerBlock, PerOutputChannel
from moir_edge.calibration.grids import E2M1, E4M3, INT8, Grid
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
        block_size: Rows per scale where the format fixes them; 0 leaves them to the caller.
        activation: What the activation passes through, which needs calibration data; None leaves it float.
        snr_allowance_db: How far under the asked signal to noise an activation may stay.
        opset: Least one that has the form.
        fallback: Precision of a layer that this one cannot hold, or whose activation it would spoil.
    """

    precision: str
    bits: int
    storage: ir.DataType
    blocks: bool = False
    block_size: int = 0
    activation: Grid | None = None
    snr_allowance_db: float = 0.0
    fallback: str = "fp32"
    opset: int = 21

    @property
    def is_float(self) -> bool:
        """Whether weights are stored as floats rather than as integers."""
        return self.storage.is_floating_point()

    def granularity(self, block_size: int) -> Granularity:
        """Return which weights share a scale, in blocks of `block_size` unless the format fixes them."""
        if not self.blocks:
            return PerOutputChannel()
        return PerBlock(block_size=self.block_size or block_size)


FORMATS: dict[str, LayerFormat] = {
    format_.precision: format_
    for format_ in (
        LayerFormat(precision="int8-weight-only", bits=8, storage=ir.DataType.INT8),
        LayerFormat(
            precision="int8",
            bits=8,
            storage=ir.DataType.INT8,
            activation=INT8,
            fallback="int8-weight-only",
        ),
        LayerFormat(
            precision="int4",
            bits=4,
            storage=ir.DataType.INT4,
            blocks=True,
            fallback="int8-weight-only",
        ),
        LayerFormat(
            precision="fp8",
            bits=8,
            storage=E4M3.storage,
            activation=E4M3,
            # Three bits of mantissa leave 29 to 35 dB to any value in range: only what underflows is to be found.
            snr_allowance_db=5.0,
            # The same bytes, and a quarter of the error where no activation has to match.
            fallback="int8-weight-only",
        ),
        LayerFormat(
            precision="nvfp4",
            bits=4,
            storage=E2M1.storage,
            blocks=True,
            block_size=16,
            fallback="int8-weight-only",
            opset=23,
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
