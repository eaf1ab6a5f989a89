"""Figures on one quantized weight, for the report."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moir_edge.calibration.moments import InputMoments, sample_columns
from moir_edge.calibration.scales import QuantizedArray

__all__ = ["WeightScales", "describe_weight"]


@dataclass(frozen=True, kw_only=True)
class WeightScales:
    """Scales of one weight and what rounding to them costs.

    Attributes:
        smallest: The least scale.
        median: The middle one.
        largest: The greatest one.
        clipped_share: Share of the weights past the range of the stored numbers by more than half a step, in [0, 1].
        signal_to_noise_db: 10 log₁₀(‖w‖² / ‖w − dequantized‖²) of the weight; None where nothing was lost.
        output_signal_to_noise_db: The same of the layer's output over the calibration data, by up to 256 of its columns;
            None without their Gram matrix, or where nothing was lost.
    """

    smallest: float
    median: float
    largest: float
    clipped_share: float
    signal_to_noise_db: float | None
    output_signal_to_noise_db: float | None = None


def describe_weight(
    weight: npt.NDArray[np.float32],
    array: QuantizedArray,
    limits: tuple[float, float],
    moments: InputMoments | None = None,
) -> WeightScales:
    """Return the figures.

    Args:
        weight: (K, N) float32.
        array: What it became.
        limits: Least and greatest number that is stored, zero points not counted.
        moments: Of the activation that it multiplies.
    """
    output = None
    if moments is not None and moments.gram is not None:
        error = sample_columns(array.dequantized() - weight)
        signal = moments.output_power(sample_columns(weight))
        output = _decibels(signal, moments.output_power(error))
    return WeightScales(
        smallest=float(array.step.min()),
        median=float(np.median(array.step)),
        largest=float(array.step.max()),
        clipped_share=_clipped_share(weight, array, limits),
        signal_to_noise_db=_decibels(1.0, array.relative_error**2),
        output_signal_to_noise_db=output,
    )


def _clipped_share(
    weight: npt.NDArray[np.float32], array: QuantizedArray, limits: tuple[float, float]
) -> float:
    """Count what lies more than half a step past the limits, in units of the scale; a part in a thousand is rounding."""
    columns = weight.shape[1]
    step = array.step.reshape(-1, 1, columns)
    stored = weight.reshape(len(step), -1, columns) / step
    lowest, highest = limits
    if array.zero_point is not None:
        stored += array.zero_point.reshape(step.shape)
        lowest, highest = 0, highest - lowest
    outside = (stored < lowest - 0.501) | (stored > highest + 0.501)
    return float(np.count_nonzero(outside) / weight.size)


def _decibels(signal: float, noise: float) -> float | None:
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None
