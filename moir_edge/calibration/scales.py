"""Find the scales of a weight: deterministic, and closer to the weight than round-to-nearest by maximum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.calibration.granularity import Granularity
from moir_edge.errors import DataError

__all__ = [
    "QuantizedArray",
    "column_groups",
    "column_slices",
    "fitted_scale",
    "integer_range",
    "quantize_array",
    "quantize_groups",
    "require_finite",
]

# Share of the largest magnitude that the integer range is stretched over. Clipping the largest weight pays in
# four bits, where the step is wide; in eight bits it hardly does.
_CLIP_RATIOS = {
    4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6),
    8: (1.0, 0.97, 0.94, 0.9),
}
_LEAST_SQUARES_STEPS = 3
_SLICE_ELEMENTS = 1 << 17

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class QuantizedArray:
    """A weight as narrow numbers and scales: w ≈ step · (values − zero_point).

    Attributes:
        values: (K, N), int8 in [-8, 7] for 4 bits and [-127, 127] for 8; uint8 in [0, 15] with a zero point; or
            floats of 4 or 8 bits.
        scale: Positive; float32, or floats of 8 bits with an outer scale. Its shape is what the granularity says.
        relative_error: ‖w − dequantized‖ / ‖w‖, Frobenius; 0 until it is measured.
        zero_point: uint8 in [0, 15], shaped like `scale`; None where zero is stored as 0.
        outer_scale: What `scale` is multiplied by where it is stored as floats of 8 bits itself; None where it is not.
    """

    values: npt.NDArray[Any]
    scale: npt.NDArray[Any]
    relative_error: float = 0.0
    zero_point: npt.NDArray[np.uint8] | None = None
    outer_scale: float | None = None

    @property
    def step(self) -> _Floats:
        """The scale as the graph computes with it, in the shape of `scale`."""
        outer = 1.0 if self.outer_scale is None else self.outer_scale
        step: _Floats = self.scale.astype(np.float32) * np.float32(outer)
        return step

    def dequantized(self) -> _Floats:
        """Return the weight that the graph computes with, (K, N)."""
        rows, columns = self.values.shape
        step = self.step.reshape(-1, 1, columns)
        groups = self.values.reshape(len(step), -1, columns).astype(np.float32)
        if self.zero_point is not None:
            groups -= self.zero_point.reshape(-1, 1, columns)
        groups *= step
        return groups.reshape(rows, columns)

    def columns(self, part: slice) -> QuantizedArray:
        """Return some of the columns, without a measured error."""
        zero = self.zero_point
        return QuantizedArray(
            values=self.values[:, part],
            scale=self.scale[..., part],
            zero_point=None if zero is None else zero[..., part],
            outer_scale=self.outer_scale,
        )

    def measured(self, weight: _Floats) -> QuantizedArray:
        """Return this with its error relative to the weight that it stands for."""
        signal = noise = 0.0
        for part in column_slices(weight.shape):
            own = weight[:, part]
            signal += _square(own)
            noise += _square(self.columns(part).dequantized() - own)
        return replace(self, relative_error=math.sqrt(noise / signal) if signal else 0.0)


def quantize_array(
    weight: _Floats,
    granularity: Granularity,
    bits: int,
    *,
    importance: npt.NDArray[np.float64] | None = None,
) -> QuantizedArray:
    """Quantize one weight symmetrically, each group with the scale of least squared error.

    For each group the best of a few clipping ratios is taken; then scale and integers are refined in turn,
    the scale by least squares, s = Σ w·q / Σ q², and a step is kept only where it lowers the error.

    Args:
        weight: (K, N) float32; K is the axis that MatMul sums over.
        granularity: Which weights share a scale.
        bits: 4 or 8.
        importance: (K,), how much the squared error of each row counts, as the mean of x² tells; None for equally.

    Raises:
        DataError: The weight holds a NaN or an infinity.
        ShapeError: The granularity does not fit the shape.
    """
    require_finite(weight)
    rows, columns = weight.shape
    block = granularity.block_rows(weight.shape)
    row_weights = None if importance is None else _row_weights(importance, block)
    values = np.empty((rows, columns), np.int8)
    scale = np.empty((rows // block, columns), np.float32)
    for part, groups in column_groups(weight, block):
        integers, scale[:, part] = quantize_groups(groups, bits, row_weights)
        values[:, part] = integers.reshape(rows, -1)
    scale = scale.reshape(granularity.scale_shape(weight.shape))
    return QuantizedArray(values=values, scale=scale).measured(weight)


def quantize_groups(
    groups: _Floats, bits: int, row_weights: _Floats | None = None
) -> tuple[_Floats, _Floats]:
    """Quantize groups of weights with one scale per block and column.

    Args:
        groups: (blocks, rows, columns).
        bits: 4 or 8.
        row_weights: (blocks, rows, 1), at most 1: what the squared error of a row counts; None for equally.

    Returns:
        Integers as floats, like `groups`; scale (blocks, columns), positive.
    """
    _, limit = integer_range(bits)
    largest = np.abs(groups).max(axis=1)
    # A group of zeros takes the scale 1, and its integers are zeros; a denormal scale would have no digits.
    least = np.finfo(np.float32).tiny
    unit: _Floats = np.where(largest > 0, np.maximum(largest / limit, least), 1).astype(np.float32)
    # In units of the plain scale no square overflows or vanishes, whatever the weight's magnitude.
    search = _Search(groups / unit[:, None], bits, row_weights)
    for ratio in _CLIP_RATIOS[bits][1:]:
        search.offer(np.full_like(unit, ratio))
    for _ in range(_LEAST_SQUARES_STEPS):
        search.offer(search.least_squares())
    return search.integers, np.maximum(search.scale * unit, least)


def column_groups(
    weight: _Floats, block: int, elements: int | None = None
) -> Iterator[tuple[slice, _Floats]]:
    """Yield a weight in slices of columns, which keeps the temporaries of a search in cache and small.

    Args:
        weight: (K, N).
        block: Rows per group.
        elements: About how many weights a slice has; None for 2¹⁷.

    Yields:
        The columns, and their weights (K / block, block, columns).
    """
    rows, _ = weight.shape
    for part in column_slices(weight.shape, elements):
        yield part, weight[:, part].reshape(rows // block, block, -1)


def column_slices(shape: tuple[int, ...], elements: int | None = None) -> Iterator[slice]:
    """Yield slices of the columns of a (K, N) weight, each with about `elements` weights; None for 2¹⁷."""
    rows, columns = shape
    width = max(1, (elements or _SLICE_ELEMENTS) // rows)
    for start in range(0, columns, width):
        yield slice(start, start + width)


def fitted_scale(
    numbers: _Floats, groups: _Floats, otherwise: _Floats, weighted: _Floats | None = None
) -> _Floats:
    """Return the scale of least squared error for given numbers, Σ w·q / Σ q², where there is one.

    Args:
        numbers: (blocks, rows, columns), what the scale multiplies.
        groups: The weights, same shape.
        otherwise: (blocks, columns), the scale of a group that no positive one fits.
        weighted: The numbers times the weight of their error; None where all count alike.
    """
    weighted = numbers if weighted is None else weighted
    power = (weighted * numbers).sum(axis=1)
    overlap = (weighted * groups).sum(axis=1)
    useful = (power > 0) & (overlap > 0)
    best: _Floats = np.where(useful, overlap / np.where(useful, power, 1), otherwise)
    return best


def integer_range(bits: int) -> tuple[int, int]:
    """Return the least and the largest integer.

    Four bits are few enough for the 16th value, -8, to matter; eight are kept symmetric.
    """
    limit = 2 ** (bits - 1) - 1
    return (-limit - 1 if bits == 4 else -limit), limit


def require_finite(weight: _Floats) -> None:
    """Raise `DataError` for a weight with a NaN or an infinity."""
    if not np.isfinite(weight).all():
        raise DataError(f"a weight of shape {weight.shape} holds a NaN or an infinity")


class _Search:
    """The best scale of each group so far, with its integers."""

    def __init__(self, groups: _Floats, bits: int, row_weights: _Floats | None) -> None:
        self._groups = groups
        self._bits = bits
        self._row_weights = row_weights
        self.scale = np.ones((groups.shape[0], groups.shape[2]), np.float32)
        self.integers, self._errors = self._round(self.scale)

    def offer(self, candidate: _Floats) -> None:
        """Take the candidate scale in the groups where it lowers the error."""
        integers, errors = self._round(candidate)
        lower = errors < self._errors
        np.copyto(self.integers, integers, where=lower[:, None])
        np.copyto(self.scale, candidate, where=lower)
        np.copyto(self._errors, errors, where=lower)

    def least_squares(self) -> _Floats:
        """Return the best scale for the integers as they are, where there is one."""
        weighted = self._weighted(self.integers)
        return fitted_scale(self.integers, self._groups, self.scale, weighted)

    def _round(self, scale: _Floats) -> tuple[_Floats, _Floats]:
        lowest, highest = integer_range(self._bits)
        integers = self._groups / scale[:, None]
        np.rint(integers, out=integers)
        np.clip(integers, lowest, highest, out=integers)
        difference = integers * scale[:, None]
        difference -= self._groups
        np.square(difference, out=difference)
        return integers, self._weighted(difference).sum(axis=1)

    def _weighted(self, array: _Floats) -> _Floats:
        return array if self._row_weights is None else array * self._row_weights


def _row_weights(importance: npt.NDArray[np.float64], block: int) -> _Floats:
    """Return importances (blocks, block, 1) relative to the largest of each block.

    A block that no input reaches counts all its rows alike.
    """
    groups = importance.reshape(-1, block, 1)
    largest = groups.max(axis=1, keepdims=True)
    shares: _Floats = np.divide(
        groups, largest, out=np.ones_like(groups), where=largest > 0
    ).astype(np.float32)
    return shares


def _square(array: _Floats) -> float:
    return float(np.einsum("kn,kn->", array, array, dtype=np.float64))
