"""Figures on one quantized weight, for the report."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moir_edge.calibration.grids import E2M1, E4M3
from moir_edge.calibration.methods.moments import InputMoments, sample_columns, sampled_columns
from moir_edge.calibration.scales import QuantizedArray, column_slices, integer_range

__all__ = ["WeightScales", "describe_weight"]


@dataclass(frozen=True, kw_only=True)
class WeightScales:
    """Scales of one weight and what rounding to them costs.

    Attributes:
        scale: The least, the median and the greatest scale.
        clipped_share: Share of the weights past the range of the stored numbers by more than half a step, in [0, 1].
        signal_to_noise_db: 10 log₁₀(‖w‖² / ‖w − dequantized‖²) of the weight; None where nothing was lost.
        output_signal_to_noise_db: The same of the layer's output over the calibration data, by up to 256 of its columns;
            None without their Gram matrix, or where nothing was lost.
    """

    scale: tuple[float, float, float]
    clipped_share: float
    signal_to_noise_db: float | None
    output_signal_to_noise_db: float | None = None


def describe_weight(
    weight: npt.NDArray[np.float32],
    array: QuantizedArray,
    bits: int,
    moments: InputMoments | None = None,
) -> WeightScales:
    """Return the figures.

    Args:
        weight: (K, N) float32.
        array: What it became.
        bits: Of a stored number.
        moments: Of the activation that it multiplies.
    """
    output = None
    if moments is not None and moments.gram is not None:
        own = sample_columns(weight)
        error = array.columns(sampled_columns(weight.shape)).dequantized() - own
        output = _decibels(moments.output_power(own), moments.output_power(error))
    return WeightScales(
        scale=(float(array.step.min()), float(np.median(array.step)), float(array.step.max())),
        clipped_share=_clipped_share(weight, array, bits),
        signal_to_noise_db=_decibels(1.0, array.relative_error**2),
        output_signal_to_noise_db=output,
    )


def _clipped_share(weight: npt.NDArray[np.float32], array: QuantizedArray, bits: int) -> float:
    """Count what lies more than half a step past the stored numbers, in units of the scale; a part in a thousand is rounding."""
    lowest, highest, step = _ends(array, bits)
    slack = 0.501 * step
    outside = 0
    for part in column_slices(weight.shape):
        own = array.columns(part)
        width = own.values.shape[1]
        scale = own.step.reshape(-1, 1, width)
        steps = weight[:, part].reshape(len(scale), -1, width) / scale
        if own.zero_point is not None:
            steps += own.zero_point.reshape(scale.shape)
        outside += int(np.count_nonzero((steps < lowest - slack) | (steps > highest + slack)))
    return float(outside / weight.size)


def _ends(array: QuantizedArray, bits: int) -> tuple[float, float, float]:
    """Return the least and the largest number that can be stored, and the step before it."""
    if array.zero_point is not None:
        return 0, 2**bits - 1, 1
    if np.issubdtype(array.values.dtype, np.integer):
        return *integer_range(bits), 1
    grid = E4M3 if bits == 8 else E2M1
    return -grid.largest, grid.largest, float(grid.step(np.array([grid.largest]))[0])


def _decibels(signal: float, noise: float) -> float | None:
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None
