"""Weights as narrow floats: E4M3 with one scale per output channel, E2M1 in blocks with E4M3 scales (NVFP4)."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt

from moir_edge.calibration.granularity import Granularity
from moir_edge.calibration.grids import E2M1, E4M3
from moir_edge.calibration.scales import QuantizedArray, column_groups, require_finite

__all__ = ["quantize_float"]

# The least number of half precision, in which engines hold the scale of a channel.
_LEAST_SCALE = np.float32(2.0**-24)
# E4M3 numbers around the scale that puts a block's largest weight on 6: two below, which clip it, and four above, by
# which it may come to lie on 4, where the numbers are closer.
_NEIGHBOURS = range(-2, 5)
# Codes of positive E4M3 numbers: 2⁻⁹ is 1 and 448 is 126.
_FIRST_CODE, _LAST_CODE, _ONE_CODE = 1, 126, 0x38
_SLICE_ELEMENTS = 1 << 19

_Floats = npt.NDArray[np.float32]


def quantize_float(
    weight: npt.NDArray[np.float32], granularity: Granularity, bits: int
) -> QuantizedArray:
    """Quantize one weight to floats of 8 or 4 bits.

    Args:
        weight: (K, N) float32; K is the axis that MatMul sums over.
        granularity: Per output channel for 8 bits, in blocks for 4.
        bits: 8 takes E4M3, 4 takes E2M1.

    Raises:
        DataError: The weight holds a NaN or an infinity.
        ShapeError: The granularity does not fit the shape.
    """
    require_finite(weight)
    if bits == 8:
        return _per_channel(weight).measured(weight)
    return _in_blocks(weight, granularity.block_rows(weight.shape)).measured(weight)


def _per_channel(weight: _Floats) -> QuantizedArray:
    """Put the largest weight of each column on 448.

    A float's error is a share of each value, so a search over scales gains next to nothing here.
    """
    largest = np.abs(weight).max(axis=0)
    scale = np.maximum(largest / np.float32(E4M3.largest), _LEAST_SCALE)
    scale = np.where(largest > 0, scale, np.float32(1)).astype(np.float32)
    return QuantizedArray(values=E4M3.round(weight / scale), scale=scale)


def _in_blocks(weight: _Floats, block: int) -> QuantizedArray:
    rows, columns = weight.shape
    outer = _outer_scale(float(np.abs(weight).max(initial=0.0)))
    values = np.empty((rows, columns), ml_dtypes.float4_e2m1fn)
    codes = np.empty((rows // block, columns), np.uint8)
    for part, plain in column_groups(weight, block, _SLICE_ELEMENTS):
        groups = plain / np.float32(outer)
        codes[:, part] = _best_codes(groups)
        values[:, part] = E2M1.round(groups / _scales(codes[:, part])[:, None]).reshape(rows, -1)
    scale = codes.view(ml_dtypes.float8_e4m3fn)
    return QuantizedArray(values=values, scale=scale, outer_scale=outer)


def _outer_scale(largest: float) -> float:
    """Return the scale of the block scales: a power of two that puts the largest of them in the upper half of E4M3.

    With a power of two a block's scale has E4M3's few digits, so that half precision holds it exactly.
    """
    if largest == 0:
        return 1.0
    exponent = np.ceil(np.log2(largest / (E2M1.largest * E4M3.largest)))
    return max(float(np.exp2(exponent)), float(_LEAST_SCALE))


def _best_codes(groups: _Floats) -> npt.NDArray[np.uint8]:
    """Return the E4M3 code of each block's scale with the least squared error, (blocks, columns).

    Args:
        groups: (blocks, rows, columns), in units of the scale of the scales.
    """
    largest = np.abs(groups).max(axis=1)
    start = E4M3.level(largest.astype(np.float64) / E2M1.largest)
    codes = np.full(largest.shape, _ONE_CODE, np.uint8)
    errors = np.full(largest.shape, np.inf, np.float32)
    for offset in _NEIGHBOURS:
        tried = np.clip(start + offset, _FIRST_CODE, _LAST_CODE).astype(np.uint8)
        step = _scales(tried)[:, None]
        rounded = E2M1.round(groups / step).astype(np.float32)
        squared = np.square(groups - rounded * step).sum(axis=1)
        better = (squared < errors) & (largest > 0)
        codes, errors = np.where(better, tried, codes), np.where(better, squared, errors)
    return codes


def _scales(codes: npt.NDArray[np.uint8]) -> _Floats:
    scales: _Floats = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    return scales
