"""The numbers that a narrow format can hold: INT8, and the floats E4M3 and E2M1.

Source: Open Compute Project, "8-bit Floating Point Specification" 1.0 and "Microscaling Formats" 1.0. Floats are rounded by the
types that ONNX itself uses, to nearest with ties to even, as `QuantizeLinear` is specified; past the largest number they saturate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["E2M1", "E4M3", "INT8", "Grid"]

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Magnitudes that a format holds; the negative ones mirror them.

    Attributes:
        storage: ONNX type of a stored number.
        largest: Greatest number.
        levels: Numbers from zero to `largest`.
        mantissa: Bits after the leading one of a float; None for integers, whose step is 1 throughout.
        least_normal: Least number with all bits of the mantissa; under it the step no longer falls.
    """

    storage: ir.DataType
    largest: float
    levels: int
    mantissa: int | None = None
    least_normal: float = 1.0

    def step(self, magnitudes: Numbers) -> Numbers:
        """Return the distance between the numbers around each magnitude, in [0, largest]."""
        if self.mantissa is None:
            return np.ones_like(magnitudes)
        _, exponent = np.frexp(np.maximum(magnitudes, self.least_normal))
        # frexp gives x = m · 2^e with m in [1/2, 1)
        step: Numbers = np.ldexp(1.0, exponent - 1 - self.mantissa)
        return step

    def round(self, values: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Return the nearest number to each value, in the storage type; values past the ends give the ends."""
        inside = np.clip(values, -self.largest, self.largest)
        rounded = inside if self.mantissa is not None else np.rint(inside)
        return rounded.astype(self.storage.numpy())

    def level(self, magnitudes: Numbers) -> npt.NDArray[np.int64]:
        """Return which of the numbers, counted from zero, is nearest to each magnitude."""
        inside = np.minimum(magnitudes, self.largest)
        if self.mantissa is None:
            return np.rint(inside).astype(np.int64)
        # Codes of positive floats rise with what they stand for.
        return inside.astype(self.storage.numpy()).view(np.uint8).astype(np.int64)


INT8 = Grid(storage=ir.DataType.INT8, largest=127.0, levels=128)
"""−127 … 127."""

E4M3 = Grid(
    storage=ir.DataType.FLOAT8E4M3FN, largest=448.0, levels=127, mantissa=3, least_normal=2.0**-6
)
"""0, 2⁻⁹ … 448."""

E2M1 = Grid(storage=ir.DataType.FLOAT4E2M1, largest=6.0, levels=8, mantissa=1)
"""0, ½, 1, 1½, 2, 3, 4, 6."""
