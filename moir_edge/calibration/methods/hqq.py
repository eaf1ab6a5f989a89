"""HQQ: half-quadratic zero points; no data, and a loss that forgives the few large errors that outliers cause.

Minimises ‖W − s (Q − z)‖_p^p with p < 1 over the zero point z, Q = clip(round(W / s + z)) and s fixed, by splitting the error off
as We and taking turns:

    We ← shrink(W − s (Q − z), β),   shrink(x, β) = sign(x) · max(|x| − |x|^(p − 1) / β, 0)
    z  ← mean over the group of Q − (W − We) / s,   β ← κ β.

Source: Badri and Shaji, "Half-quadratic quantization of large machine learning models", 2023, equations 3 to 6, with the
authors' p = 0.7, β = 10, κ = 1.01 and 20 steps. Zero points are 4-bit integers in the file, so z is rounded in the end, and the
scale is fitted to the integers once more by least squares.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moir_edge.calibration.granularity import Granularity
from moir_edge.calibration.scales import (
    QuantizedArray,
    column_groups,
    fitted_scale,
    require_finite,
)

__all__ = ["quantize_half_quadratic", "shrink"]

NORM = 0.7
BETA = 10.0
KAPPA = 1.01
STEPS = 20

Floats = npt.NDArray[np.float32]


def quantize_half_quadratic(weight: Floats, granularity: Granularity, bits: int) -> QuantizedArray:
    """Quantize (K, N) float32 to unsigned integers with a zero point per group.

    Raises:
        DataError: The weight holds a NaN or an infinity.
        ShapeError: The granularity does not fit the shape.
    """
    require_finite(weight)
    rows, columns = weight.shape
    block = granularity.block_rows(weight.shape)
    values = np.empty((rows, columns), np.uint8)
    scale = np.empty((rows // block, columns), np.float32)
    zero = np.empty((rows // block, columns), np.uint8)
    for part, groups in column_groups(weight, block):
        integers, scale[:, part], zero[:, part] = _quantize_groups(groups, 2**bits - 1)
        values[:, part] = integers.reshape(rows, -1)
    shape = granularity.scale_shape(weight.shape)
    array = QuantizedArray(
        values=values, scale=scale.reshape(shape), zero_point=zero.reshape(shape)
    )
    return array.measured(weight)


def shrink(errors: Floats, beta: float) -> Floats:
    """Return the proximal step of |x|^p: small errors vanish, large ones are kept nearly whole.

    Args:
        errors: Any shape, in units of a weight of magnitude one.
        beta: Weight of the quadratic term.
    """
    magnitudes = np.abs(errors)
    # At zero the power is infinite, and the result zero.
    powers = np.power(np.maximum(magnitudes, np.float32(1e-12)), np.float32(NORM - 1))
    kept: Floats = np.sign(errors) * np.maximum(magnitudes - powers / np.float32(beta), 0)
    return kept


def _quantize_groups(groups: Floats, highest: int) -> tuple[Floats, Floats, Floats]:
    """Quantize (blocks, rows, columns); returns integers, scale and zero point, the latter (blocks, columns)."""
    # In units of the largest weight of each group: magnitudes that p and β are meant for, and no overflow.
    unit = np.abs(groups).max(axis=1, keepdims=True)
    unit[unit == 0] = 1
    scaled = groups / unit
    # Zero is in the range, so that a group of one sign keeps a zero point between the integers.
    low = np.minimum(scaled.min(axis=1, keepdims=True), 0)
    high = np.maximum(scaled.max(axis=1, keepdims=True), 0)
    step = np.where(high > low, (high - low) / highest, 1).astype(np.float32)
    start = -low / step
    plain = _finish(scaled, step, start, highest)
    solved = _finish(scaled, step, _solve(scaled, step, start, highest), highest)
    better = solved[3] < plain[3]
    integers, fitted, zero = (
        np.where(better, new, old) for new, old in zip(solved[:3], plain[:3], strict=True)
    )
    scale = np.maximum(fitted * unit, np.finfo(np.float32).tiny)
    return integers, scale[:, 0], zero[:, 0]


def _solve(scaled: Floats, step: Floats, zero: Floats, highest: int) -> Floats:
    """Take the turns; a group keeps the zero point of its least error."""
    best, least = zero, np.full_like(zero, np.inf)
    beta = BETA
    for _ in range(STEPS):
        integers = _round(scaled, step, zero, highest)
        errors = scaled - step * (integers - zero)
        loss = np.abs(errors).mean(axis=1, keepdims=True)
        best, least = np.where(loss < least, zero, best), np.minimum(loss, least)
        kept = shrink(errors, beta)
        zero = (integers - (scaled - kept) / step).mean(axis=1, keepdims=True)
        beta *= KAPPA
    return best


def _round(scaled: Floats, step: Floats, zero: Floats, highest: int) -> Floats:
    integers: Floats = np.clip(np.rint(scaled / step + zero), 0, highest)
    return integers


def _finish(
    scaled: Floats, step: Floats, zero: Floats, highest: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Round the zero point, fit the scale; returns integers, scale, zero point and squared error."""
    zero = np.clip(np.rint(zero), 0, highest)
    for _ in range(2):
        integers = _round(scaled, step, zero, highest)
        centred = integers - zero
        step = fitted_scale(centred, scaled, step[:, 0])[:, None]
    errors = np.square(scaled - centred * step).sum(axis=1, keepdims=True)
    return integers, step, zero, errors
