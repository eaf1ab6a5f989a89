"""GPTQ: quantize a weight row by row, each row making up for the errors of the rows before it.

The error of a layer's output is tr(Eᵀ H E), with E = W − Ŵ and H = mean of x xᵀ. With H = R Rᵀ, R upper triangular, it is the
sum over rows of ‖R_ii e_i + Σ_{j<i} R_ji e_j‖², so the best integers of row i, given those before it, are those nearest to

    t_i = w_i + Σ_{j<i} (R_ji / R_ii) e_j.

Rows come in the order of falling diagonal of H, and the scales of all groups are chosen before: the authors' `act_order` with
`static_groups`. On the demo that left less noise in the outputs than the rows as they lie with scales by their turn.

Source: Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained transformers", ICLR 2023,
algorithm 1, whose integers these are. It goes by the Cholesky factor of H⁻¹; this form of it needs no inverse: Chen et al.,
"The geometry of LLM quantization: GPTQ as Babai's nearest plane algorithm", 2025.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from moir_edge.calibration.granularity import Granularity
from moir_edge.calibration.methods.moments import InputMoments
from moir_edge.calibration.scales import (
    QuantizedArray,
    integer_range,
    quantize_array,
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
            return f"Σ x xᵀ of its {len(moments.second_moment)} input channels was not gathered"
        if not np.isfinite(moments.gram).all():
            return "Σ x xᵀ of its input is past the range of float32"
        return "" if np.trace(moments.gram) > 0 else "its input was always zero"

    def __call__(self, weight: Floats, granularity: Granularity, bits: int) -> QuantizedArray:
        """Quantize (K, N) float32.

        Raises:
            DataError: The weight holds a NaN or an infinity.
            ShapeError: The granularity does not fit the shape.
        """
        order, factor = self._order, self._factor
        importance = np.empty(len(order))
        importance[order] = np.square(np.diagonal(factor))
        nearest = quantize_array(weight, granularity, bits, importance=importance)
        block = granularity.block_rows(weight.shape)
        # In units of the largest weight the corrections stay in range, whatever its magnitude.
        unit = np.abs(weight).max() or np.float32(1)
        scale = nearest.step.reshape(-1, weight.shape[1]) / unit
        values = np.empty_like(nearest.values)
        values[order] = _feed_back(weight[order] / unit, scale, order // block, factor, bits)
        return QuantizedArray(values=values, scale=nearest.scale).measured(weight)

    @cached_property
    def _order(self) -> npt.NDArray[np.intp]:
        """The rows, those of the largest activations first, (K,)."""
        return np.argsort(-np.diagonal(self._gram), kind="stable")

    @cached_property
    def _factor(self) -> Floats:
        """R, (K, K) upper triangular, of the damped H in the order of the rows."""
        gram = self._gram[np.ix_(self._order, self._order)]
        return _upper_factor(gram * (len(gram) / np.trace(gram)))

    @property
    def _gram(self) -> npt.NDArray[np.float64]:
        if self._moments.gram is None:
            raise ValueError("GPTQ needs a Gram matrix, and none was given")
        return self._moments.gram


def _upper_factor(gram: npt.NDArray[np.float64]) -> Floats:
    """Return R of R Rᵀ = gram + damping, for a diagonal with a mean of 1; gram is overwritten.

    Float32 rounding of a sum over very alike channels may leave it short of positive; then it is damped more.
    """
    diagonal = np.diagonal(gram).copy()
    damping = DAMPING
    while True:
        np.fill_diagonal(gram, diagonal + damping)
        try:
            # Turned by 180°, the lower factor of the turned matrix is the upper factor of this one.
            return np.linalg.cholesky(gram[::-1, ::-1])[::-1, ::-1].astype(np.float32)
        except np.linalg.LinAlgError:
            damping *= 10


def _feed_back(
    weight: Floats, scale: Floats, groups: npt.NDArray[np.intp], factor: Floats, bits: int
) -> Floats:
    """Round row by row and return the integers, (K, N).

    Args:
        weight: (K, N), rows in the order in which they are rounded.
        scale: (groups, N).
        groups: (K,), the group of each row.
        factor: R, (K, K), in the same order.
        bits: Of an integer.
    """
    lowest, highest = integer_range(bits)
    diagonal = np.diagonal(factor)
    errors = np.zeros_like(weight)
    integers = np.empty_like(weight)
    for start in range(0, len(weight), _CHUNK):
        stop = min(start + _CHUNK, len(weight))
        carried = factor[:start, start:stop].T @ errors[:start]
        for row in range(start, stop):
            before = factor[start:row, row] @ errors[start:row]
            target = weight[row] + (carried[row - start] + before) / diagonal[row]
            step = scale[groups[row]]
            integers[row] = np.clip(np.rint(target / step), lowest, highest)
            errors[row] = weight[row] - integers[row] * step
    return integers
