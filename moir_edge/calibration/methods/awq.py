"""AWQ: widen the rows of a weight that meet large activations before rounding, so that they lose less.

x W = (x / s) (s · W): the rows of W grow by s, a step of the grid stays about what it was, so the error of a row falls by s. The division
is folded into what makes x, as SmoothQuant does. s = (mean of x²)^(α / 2), and α is the one with the least error of the output.
Scales clip the largest weights where that lowers the error, squares weighted by the mean of x²; a layer whose input nothing can
be folded into has only that.

Source: Lin et al., "AWQ: activation-aware weight quantization for LLM compression and acceleration", MLSys 2024, equations 4 and 5,
with the root mean square of x in place of the mean of |x|, and the expected error of the output in place of one on samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from moir_edge.calibration.granularity import Granularity
from moir_edge.calibration.methods.moments import InputMoments, sample_columns
from moir_edge.calibration.patterns import WeightUse
from moir_edge.calibration.scales import QuantizedArray, quantize_array
from moir_edge.calibration.smoothing import apply_fold, find_fold
from moir_edge.calibration.taps import find_activations

__all__ = ["ALPHAS", "AwqQuantizer", "Migration", "migrate"]

ALPHAS = tuple(round(0.1 * step, 1) for step in range(1, 11))
"""Exponents that the search tries, besides leaving the rows alone."""

# A row is widened by so much at most, against the others: the product of what is folded stays in the range of fp16.
_MOST = 1e3

Floats = npt.NDArray[np.float32]
MomentsOf = Callable[[str], InputMoments | None]
"""Name of an activation to its moments, None where there are none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Migration:
    """Factors folded into one activation.

    Attributes:
        alpha: The exponent.
        factors: s, (K,) positive.
    """

    alpha: float
    factors: Floats


class AwqQuantizer:
    """Quantizes a weight whose rows are widened already; called as a `WeightQuantizer`.

    Args:
        moments: Of the activation as it now is, x / s.
    """

    def __init__(self, moments: InputMoments) -> None:
        self._moments = moments

    @staticmethod
    def obstacle(moments: InputMoments) -> str:
        """Return why activations cannot weigh the errors, or nothing."""
        if not np.isfinite(moments.second_moment).all():
            return "its input is past the range of float32"
        return "" if moments.second_moment.any() else "its input was always zero"

    def __call__(self, weight: Floats, granularity: Granularity, bits: int) -> QuantizedArray:
        """Quantize (K, N) float32, errors weighted by the mean of x².

        Raises:
            DataError: The weight holds a NaN or an infinity.
            ShapeError: The granularity does not fit the shape.
        """
        return quantize_array(weight, granularity, bits, importance=self._moments.second_moment)


def migrate(
    graph: ir.Graph,
    moments_of: MomentsOf,
    granularity_of: Callable[[WeightUse], Granularity | None],
    *,
    bits: int = 4,
) -> dict[str, Migration]:
    """Widen rows wherever a division can be folded in and that lowers the error, in place.

    The graph computes what it did, up to rounding.

    Args:
        graph: A float graph.
        moments_of: Moments of its activations.
        granularity_of: How a weight will be quantized; None if it will not be to `bits`, which leaves its
            activation as it is.
        bits: Of a weight.

    Returns:
        What was folded, by name of the activation.
    """
    found: dict[str, Migration] = {}
    for name, uses in find_activations(graph).items():
        layers = [(use, granularity_of(use)) for use in uses]
        fold, moments = find_fold(uses), moments_of(name)
        if not fold or moments is None or AwqQuantizer.obstacle(moments):
            continue
        if any(granularity is None for _, granularity in layers):
            continue
        samples = [(sample_columns(use.matrix()), kind) for use, kind in layers if kind is not None]
        best = _search(samples, moments, bits)
        if best is not None:
            apply_fold(graph, fold, uses, best.factors)
            found[name] = best
    return found


def _search(
    layers: Sequence[tuple[Floats, Granularity]], moments: InputMoments, bits: int
) -> Migration | None:
    """Return the exponent of least error over the weights of one activation, or None where none gains."""
    untouched = np.ones_like(layers[0][0][:, 0])
    tried = [Migration(alpha=alpha, factors=_factors(moments, alpha)) for alpha in ALPHAS]
    return min(
        (None, *tried),
        key=lambda one: _output_error(layers, moments, one.factors if one else untouched, bits),
    )


def _factors(moments: InputMoments, alpha: float) -> Floats:
    """Return s per channel, (K,), with a mean logarithm of zero; a channel without activation keeps its rows."""
    used = moments.second_moment > 0
    logarithms = np.zeros(len(used))
    logarithms[used] = alpha / 2 * np.log(moments.second_moment[used])
    logarithms[used] -= logarithms[used].mean()
    return np.exp(np.clip(logarithms, -np.log(_MOST), np.log(_MOST))).astype(np.float32)


def _output_error(
    layers: Sequence[tuple[Floats, Granularity]],
    moments: InputMoments,
    factors: Floats,
    bits: int,
) -> float:
    """Return the expected squared error of the outputs per token."""
    divided = moments.second_moment / factors.astype(np.float64) ** 2
    error = 0.0
    for weight, granularity in layers:
        array = quantize_array(weight * factors[:, None], granularity, bits, importance=divided)
        error += moments.output_power(array.dequantized() / factors[:, None] - weight)
    return error
