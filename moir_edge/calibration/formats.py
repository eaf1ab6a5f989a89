"""Storage formats of a layer's weight and activation, by precision."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from moir_edge.arguments import text
from moir_edge.calibration.granularity import Granularity, PerBlock, PerOutputChannel
from moir_edge.calibration.grids import E4M3, INT8, Grid
from moir_edge.checked import checked, required
from moir_edge.errors import UnsupportedError, closest
from moir_edge.precisions import FP32, PRECISIONS, Precision

__all__ = ["FORMATS", "LayerFormat", "get_format"]


@dataclass(frozen=True, kw_only=True)
class LayerFormat:
    """Storage format of one layer.

    Attributes:
        facts: What is known of the precision.
        activation: What the activation passes through; None leaves it float.
    """

    facts: Precision
    activation: Grid | None

    @property
    def precision(self) -> str:
        """Its name."""
        return self.facts.name

    @property
    def storage(self) -> ir.DataType:
        """ONNX type of the weight."""
        return ir.DataType[self.facts.storage]

    @property
    def fallback(self) -> str:
        """Precision of a layer that this one cannot hold, or whose activation it would spoil."""
        return self.facts.fallback or FP32

    @property
    def blocks(self) -> bool:
        """Whether a block of rows shares a scale, rather than the whole column."""
        return self.facts.block_size is not None

    def rows_per_scale(self, block_size: int) -> int:
        """Return the rows of a block: those that the format fixes, else `block_size`."""
        return self.facts.block_size or block_size

    def granularity(self, block_size: int) -> Granularity:
        """Return which weights share a scale, in blocks of `block_size` unless the format fixes them."""
        if not self.blocks:
            return PerOutputChannel()
        return PerBlock(block_size=self.rows_per_scale(block_size))


_GRIDS = {grid.storage.name: grid for grid in (INT8, E4M3)}

FORMATS: dict[str, LayerFormat] = {
    name: LayerFormat(facts=facts, activation=_GRIDS.get(facts.activation or ""))
    for name, facts in PRECISIONS.items()
    if facts.quantized
}
"""Every quantized precision by name."""


@checked(precision=required(text))
def get_format(precision: str) -> LayerFormat:
    """Return the format of that name.

    Raises:
        UnsupportedError: No such format; the message names the closest one.
    """
    if precision not in FORMATS:
        raise UnsupportedError(f"cannot quantize to {precision!r}: {closest(precision, FORMATS)}")
    return FORMATS[precision]
