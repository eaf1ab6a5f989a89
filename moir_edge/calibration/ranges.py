"""From a histogram of magnitudes to the range that an 8-bit scale covers: min-max, percentile, entropy and MSE.

For the float E4M3 as for INT8; a float has its own exponent, so that its error hangs little on the range as long as nothing is clipped.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from moir_edge.calibration.grids import INT8, Grid
from moir_edge.calibration.observers import BINS, ActivationObserver
from moir_edge.calibration.settings import CalibrationMethod, check_method

__all__ = ["LEVELS", "clipped_share", "find_range", "signal_to_noise_db"]

LEVELS = 127
"""Positive integers of a symmetric INT8 scale: range = LEVELS × scale."""

PERCENTILE = 99.99
"""Share of the magnitudes, in %, that `percentile` covers."""

_CANDIDATES = 256
_TINY = 1e-10

Counts = npt.NDArray[np.float64]


def find_range(observer: ActivationObserver, method: CalibrationMethod, grid: Grid = INT8) -> float:
    """Return the largest magnitude that a symmetric 8-bit scale should represent: range = grid.largest × scale.

    Args:
        observer: Statistics of the activation.
        method: `minmax` takes the largest magnitude; `percentile` the one that 99.99 % do not pass; `entropy`
            loses least information (Kullback-Leibler); `mse` has the least expected squared error.
        grid: The numbers that a value is rounded to.

    Returns:
        A positive range, at most the largest magnitude; the grid's, whose scale is 1, if all values were zero.

    Raises:
        UnsupportedError: Another method.
    """
    check_method(method)
    if observer.largest == 0:
        return grid.largest
    found = _METHODS[method](observer, grid)
    # Below the least normal float32 a scale would lose its digits, or vanish.
    least = grid.largest * float(np.finfo(np.float32).tiny)
    return max(min(found, observer.largest), least)


def clipped_share(observer: ActivationObserver, limit: float) -> float:
    """Return the share of values whose magnitude lies in bins past `limit`, in [0, 1]."""
    if limit >= observer.largest:
        return 0.0
    total = int(observer.counts.sum())
    edges = np.arange(BINS) * observer.bin_width
    return float(observer.counts[edges >= limit].sum() / total)


def signal_to_noise_db(observer: ActivationObserver, limit: float, grid: Grid = INT8) -> float:
    """Return 10 log₁₀(Σ x² / Σ error²) under a range, from the histogram; infinite for no error."""
    counts, centres = _binned(observer)
    signal = float((counts * centres**2).sum())
    noise = float((counts * _squared_error(centres, limit, grid)).sum())
    return 10 * float(np.log10(signal / noise)) if observer.largest > 0 else float("inf")


def _largest(observer: ActivationObserver, grid: Grid) -> float:
    del grid
    return observer.largest


def _percentile(observer: ActivationObserver, grid: Grid) -> float:
    """Interpolate within the bin in which the share is reached."""
    del grid
    cumulated = np.cumsum(observer.counts)
    wanted = cumulated[-1] * PERCENTILE / 100
    index = int(np.searchsorted(cumulated, wanted))
    before = cumulated[index - 1] if index else 0
    part = (wanted - before) / max(int(observer.counts[index]), 1)
    return float((index + part) * observer.bin_width)


def _least_squares(observer: ActivationObserver, grid: Grid) -> float:
    """Try evenly spaced ranges up to the largest magnitude.

    Source: the objective of Banner et al., "Post training 4-bit quantization of convolutional networks",
    2019, on the measured histogram in place of a fitted distribution.
    """
    counts, centres = _binned(observer)
    limits = observer.largest * np.arange(1, _CANDIDATES + 1) / _CANDIDATES
    errors = [float((counts * _squared_error(centres, limit, grid)).sum()) for limit in limits]
    return float(limits[int(np.argmin(errors))])


def _squared_error(magnitudes: Counts, limit: float, grid: Grid) -> Counts:
    """Return the expected squared error per magnitude: rounding inside the range, clipping outside.

    Rounding is uniform, step² / 12; below half the least step a value becomes zero and loses itself.
    """
    scale = limit / grid.largest
    step = scale * grid.step(np.minimum(magnitudes / scale, grid.largest))
    least = scale * float(grid.step(np.zeros(1))[0])
    inside = np.where(magnitudes < least / 2, magnitudes**2, step**2 / 12)
    clipped: Counts = np.where(magnitudes > limit, (magnitudes - limit) ** 2, inside)
    return clipped


def _entropy(observer: ActivationObserver, grid: Grid) -> float:
    """Take the range whose 8-bit histogram diverges least from the clipped one.

    Source: Migacz, "8-bit inference with TensorRT", GTC 2017: P is the histogram up to the range with what lies
    beyond added to its last bin, Q the same bins without it, averaged over the grid's levels where P is not empty.
    """
    counts = observer.counts.astype(np.float64)
    used = int(np.flatnonzero(counts)[-1]) + 1
    ends = np.unique(np.linspace(min(grid.levels, used), used, _CANDIDATES).astype(int))
    divergences = [_divergence(counts, _levels(int(end), grid)) for end in ends]
    return float(ends[int(np.argmin(divergences))] * observer.bin_width)


def _levels(end: int, grid: Grid) -> npt.NDArray[np.int64]:
    """Return the level of each of `end` bins when they make up the range."""
    if grid.mantissa is None:
        return np.arange(end) * grid.levels // end
    return grid.level((np.arange(end) + 0.5) / end * grid.largest)


def _divergence(counts: Counts, levels: npt.NDArray[np.int64]) -> float:
    """Return KL(P ‖ Q) for a range of as many bins as `levels` has."""
    end, size = len(levels), int(levels.max()) + 1
    inside = counts[:end]
    reference = inside.copy()
    reference[-1] += counts[end:].sum()
    present = inside > 0
    sums = np.bincount(levels, inside, size)
    members = np.bincount(levels, present, size)
    spread = np.divide(sums, members, out=np.zeros_like(sums), where=members > 0)
    quantized = np.where(present, spread[levels], 0.0)
    p = reference / reference.sum()
    q = np.maximum(quantized / max(quantized.sum(), 1.0), _TINY)
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


def _binned(observer: ActivationObserver) -> tuple[Counts, Counts]:
    """Return counts and centres of the bins that hold something."""
    filled = np.flatnonzero(observer.counts)
    centres = (filled.astype(np.float64) + 0.5) * observer.bin_width
    return observer.counts[filled].astype(np.float64), centres


_METHODS: dict[str, Callable[[ActivationObserver, Grid], float]] = {
    "minmax": _largest,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _least_squares,
}
