"""Find the scales of a weight: data-free, deterministic, and closer to the weight than round-to-nearest by maximum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.calibration.granularity import Granularity
from moir_edge.errors import DataError

__all__ = ["QuantizedArray", "quantize_array"]

# Share of the largest magnitude that the integer range is stretched over. Clipping the largest weight pays in
# four bits, where the step is wide; in eight bits it hardly does.
_CLIP_RATIOS = {
    4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6),
    8: (1.0, 0.97, 0.94, 0.9),
}
_LEAST_SQUARES_STEPS = 3
# Columns are handled in slices of about this many weights, which keeps the temporaries in cache and small.
_SLICE_ELEMENTS = 1 << 19


@dataclass(frozen=True)
class QuantizedArray:
    """A weight as narrow numbers and scales.

    Attributes:
        values: (K, N) int8, in [-8, 7] for 4 bits and [-127, 127] for 8, or floats of 4 or 8 bits.
        scale: Float32, positive; its shape is what the granularity says.
        relative_error: ‖w − scale · values‖ / ‖w‖, Frobenius.
        outer_scale: What `scale` is multiplied by where it is stored as floats of 8 bits itself; None where it is not.
    """

    values: npt.NDArray[Any]
    scale: npt.NDArray[Any]
    relative_error: float
    outer_scale: float | None = None


def quantize_array(
    weight: npt.NDArray[np.float32], granularity: Granularity, bits: int
) -> QuantizedArray:
    """Quantize one weight symmetrically, each group with the scale of least squared error.

    For each group the best of a few clipping ratios is taken; then scale and integers are refined in turn,
    the scale by least squares, s = Σ w·q / Σ q², and a step is kept only where it lowers the error.

    Args:
        weight: (K, N) float32; K is the axis that MatMul sums over.
        granularity: Which weights share a scale.
        bits: 4 or 8.

    Raises:
        DataError: The weight holds a NaN or an infinity.
        ShapeError: The granularity does not fit the shape.
    """
    if not np.isfinite(weight).all():
        raise DataError(f"a weight of shape {weight.shape} holds a NaN or an infinity")
    rows, columns = weight.shape
    block = granularity.block_rows(weight.shape)
    values = np.empty((rows, columns), np.int8)
    scale = np.empty((rows // block, columns), np.float32)
    width = max(1, _SLICE_ELEMENTS // rows)
    squared_error = 0.0
    for start in range(0, columns, width):
        part = slice(start, start + width)
        groups = weight[:, part].reshape(rows // block, block, -1)
        integers, steps, errors = _quantize_groups(groups, bits)
        values[:, part] = integers.reshape(rows, -1)
        scale[:, part] = steps
        squared_error += float(errors.sum(dtype=np.float64))
    norm = float(np.square(weight, dtype=np.float64).sum())
    return QuantizedArray(
        values=values,
        scale=scale.reshape(granularity.scale_shape(weight.shape)),
        relative_error=float(np.sqrt(squared_error / norm)) if norm else 0.0,
    )


_Floats = npt.NDArray[np.float32]


def _quantize_groups(groups: _Floats, bits: int) -> tuple[_Floats, _Floats, _Floats]:
    """Quantize (blocks, rows, columns) with one scale per block and column.

    Returns:
        Integers as floats, like `groups`; scale (blocks, columns); squared error (blocks, columns).
    """
    limit = 2 ** (bits - 1) - 1
    largest = np.abs(groups).max(axis=1)
    # A group of zeros takes the scale 1, and its integers are zeros.
    unit = np.where(largest > 0, largest / limit, np.float32(1)).astype(np.float32)
    scale = unit
    integers, errors = _round(groups, scale, bits)
    for ratio in _CLIP_RATIOS[bits][1:]:
        candidate = unit * np.float32(ratio)
        integers, scale, errors = _better(groups, bits, candidate, integers, scale, errors)
    for _ in range(_LEAST_SQUARES_STEPS):
        power = np.square(integers).sum(axis=1)
        overlap = (groups * integers).sum(axis=1)
        useful = (power > 0) & (overlap > 0)
        candidate = np.where(useful, overlap / np.where(useful, power, 1), scale)
        integers, scale, errors = _better(groups, bits, candidate, integers, scale, errors)
    return integers, scale, errors


def _round(groups: _Floats, scale: _Floats, bits: int) -> tuple[_Floats, _Floats]:
    limit = 2 ** (bits - 1) - 1
    # Four bits are few enough for the 16th value, -8, to matter; eight are kept symmetric.
    lowest = -limit - 1 if bits == 4 else -limit
    integers = np.clip(np.rint(groups / scale[:, None]), lowest, limit)
    errors = np.square(groups - integers * scale[:, None]).sum(axis=1)
    return integers, errors


def _better(
    groups: _Floats,
    bits: int,
    candidate: _Floats,
    integers: _Floats,
    scale: _Floats,
    errors: _Floats,
) -> tuple[_Floats, _Floats, _Floats]:
    """Take the candidate scale in the groups where it lowers the error."""
    candidate = candidate.astype(np.float32)
    new_integers, new_errors = _round(groups, candidate, bits)
    lower = new_errors < errors
    return (
        np.where(lower[:, None], new_integers, integers),
        np.where(lower, candidate, scale),
        np.where(lower, new_errors, errors),
    )
