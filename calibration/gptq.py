"""GPTQ: quantize a weight row by row, each row making up for the errors of the rows before it.

The error of a layer's output is tr(Eᵀ H E), with E = W − Ŵ and H = mean of x xᵀ. With H = R Rᵀ, R upper triangular, it is the
sum over rows of ‖R_ii e_i + Σ_{j<i} R_ji e_j‖², so the best integers of row i, given those before it, are those nearest to

    t_i = w_i + Σ_{j<i} (R_ji / R_ii) e_j.

Source: Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers", ICLR 2023,
algorithm 1, whose integers these are. It goes by the Cholesky factor of H⁻¹; this form of it needs no inverse: Chen et al.,
"The geometry of LLM quantization: GPTQ as Babai's nearest plane algorithm", 2025.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from moir_edge.calibration.granularity import Granularity
from moir_edge.calibration.moments import InputMoments
from moir_edge.calibration.scales import (
    QuantizedArray,
    integer_range,
    quantize_groups,
    require_finite,
)

__all__ = ["DAMPING", "GptqQuantizer"]

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it, as in the paper: channels hardly seen stay bounded."""

# Rows whose mutual corrections are made one at a time; those of all rows before them are one product.
_CHUNK = 32

Floats = npt.NDArray[np.float32]


class GptqQuantizer:
    """Quantizes the weights that one activation multiplies; called as a `WeightQuantizer`.

    Args:
        moments: Of the activation, with the Gram matrix.
    """

    def __init__(self, moments: InputMoments) -> None:
        self._moments = moments

    @staticmethod
    def obstacle(moments: InputMoments) -> str:
        """Return why errors cannot be fed back, or nothing."""
        if moments.gram is None:
            return "Σ x xᵀ of its input was not gathered"
        if not np.isfinite(moments.gram).all():
            return "Σ x xᵀ of its input is past the range of float32"
        return "" if np.trace(moments.gram) > 0 else "its input was always zero"

    def __call__(self, weight: Floats, granularity: Granularity, bits: int) -> QuantizedArray:
        """Quantize (K, N) float32, the scales of a group being chosen when its turn comes.

        Raises:
            DataError: The weight holds a NaN or an infinity.
            ShapeError: The granularity does not fit the shape.
        """
        require_finite(weight)
        block = granularity.block_rows(weight.shape)
        # In units of the largest weight the corrections stay in range, whatever its magnitude.
        unit = np.abs(weight).max() or np.float32(1)
        pass_ = _Pass(weight / unit, self._factor, bits)
        for start in range(0, len(weight), block):
            pass_.group(start, start + block)
        scale = np.maximum(np.stack(pass_.scales) * unit, np.finfo(np.float32).tiny)
        array = QuantizedArray(
            values=pass_.values, scale=scale.reshape(granularity.scale_shape(weight.shape))
        )
        return array.measured(weight)

    @cached_property
    def _factor(self) -> Floats:
        """R, (K, K) upper triangular, of the damped H."""
        gram = self._moments.gram
        if gram is None:
            raise ValueError("GPTQ was given no Gram matrix")
        damped = gram / np.trace(gram) * len(gram)
        damped[np.diag_indices_from(damped)] += DAMPING
        # Turned by 180°, the lower factor of the turned matrix is the upper factor of this one.
        return np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1].astype(np.float32)


class _Pass:
    """One weight on its way, (K, N) in units of its largest element."""

    def __init__(self, weight: Floats, factor: Floats, bits: int) -> None:
        self._weight = weight
        self._factor = factor
        self._diagonal = np.diagonal(factor)
        self._bits = bits
        self._errors = np.zeros_like(weight)
        self.values = np.empty(weight.shape, np.int8)
        self.scales: list[Floats] = []

    def group(self, start: int, stop: int) -> None:
        """Quantize the rows that share a scale."""
        scale = self._scale(start, stop)
        for first in range(start, stop, _CHUNK):
            self._chunk(first, min(first + _CHUNK, stop), scale)
        self.scales.append(scale)

    def _scale(self, start: int, stop: int) -> Floats:
        """Choose the scale for the rows as they would best make up for all errors so far, (N,)."""
        own = self._factor[start:stop, start:stop]
        correction = np.linalg.solve(own.T, self._carried(start, stop))
        weights = np.square(self._diagonal[start:stop])
        _, scale = quantize_groups(
            (self._weight[start:stop] + correction)[None],
            self._bits,
            (weights / weights.max())[None, :, None],
        )
        return scale[0]

    def _carried(self, start: int, stop: int) -> Floats:
        """Return Σ R_ji e_j over the rows j before `start`, (stop - start, N)."""
        carried: Floats = self._factor[:start, start:stop].T @ self._errors[:start]
        return carried

    def _chunk(self, start: int, stop: int, scale: Floats) -> None:
        lowest, highest = integer_range(self._bits)
        carried = self._carried(start, stop)
        for row in range(start, stop):
            before = self._factor[start:row, row] @ self._errors[start:row]
            target = self._weight[row] + (carried[row - start] + before) / self._diagonal[row]
            integers = np.clip(np.rint(target / scale), lowest, highest)
            self.values[row] = integers
            self._errors[row] = self._weight[row] - integers * scale
