"""Bootstrap intervals of means and of paired ratios, so that a difference can be told from luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moir_edge.errors import NotFiniteError
from moir_edge.finite import count_text, is_finite

__all__ = [
    "CONFIDENCE",
    "RESAMPLES",
    "Interval",
    "interval_of",
    "mean_interval",
    "ratio_interval",
    "resampled_means",
]

CONFIDENCE = 0.95
RESAMPLES = 1000
_CHUNK = 50

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval (percentile method), in the figure's own unit."""

    value: float
    low: float
    high: float


def mean_interval(scores: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the mean of per-row scores with its interval.

    Args:
        scores: One score per row, at least one.
        seed: Seed of the resampling.

    Raises:
        ValueError: There is no score.
        NotFiniteError: A score is NaN or infinite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise ValueError("mean_interval needs at least one score")
    _require_finite(values)
    means = resampled_means(values[None], seed)[0]
    return interval_of(float(values.mean()), means)


def ratio_interval(
    scores: Sequence[float], reference: Sequence[float], *, seed: int = 0
) -> Interval | None:
    """Return mean(scores) / mean(reference) with an interval over rows drawn in pairs.

    Args:
        scores: One score per row.
        reference: The reference's score on the same rows.
        seed: Seed of the resampling.

    Returns:
        The ratio (1 is full recovery), or None where the reference scores nothing at all.

    Raises:
        ValueError: The lists differ in length or are empty.
        NotFiniteError: A score is NaN or infinite.
    """
    pair = np.asarray([scores, reference], dtype=np.float64)
    if pair.ndim != 2 or pair.shape[1] == 0:
        raise ValueError("ratio_interval needs two score lists of the same rows, at least one row")
    _require_finite(pair)
    total = pair.mean(axis=1)
    if total[1] <= 0:
        return None
    means = resampled_means(pair, seed)
    # a resample in which the reference scores nothing has no ratio
    defined = means[1] > 0
    return interval_of(float(total[0] / total[1]), means[0][defined] / means[1][defined])


def _require_finite(scores: Floats) -> None:
    """Refuse scores whose mean is not a number; an interval around it would pass for a figure."""
    if not is_finite(scores):
        raise NotFiniteError(f"scores: {count_text(scores)}; they have no mean and no interval")


def resampled_means(values: Floats, seed: int | Sequence[int]) -> Floats:
    """Return the means of `RESAMPLES` draws of rows with replacement, the same rows in every list.

    Args:
        values: (lists, rows) float64, at least one row.
        seed: Seed of the draws; a sequence keeps independent groups apart.

    Returns:
        (lists, resamples) float64.
    """
    generator = np.random.default_rng(seed)
    rows = values.shape[1]
    chunks = []
    for start in range(0, RESAMPLES, _CHUNK):
        drawn = generator.integers(0, rows, size=(min(_CHUNK, RESAMPLES - start), rows))
        chunks.append(values[:, drawn].mean(axis=2))
    return np.concatenate(chunks, axis=1)


def interval_of(value: float, samples: Floats) -> Interval:
    """Return a figure with the percentile interval of its resampled values.

    Args:
        value: The figure on all rows.
        samples: (resamples,) the figure on each resample; none gives an interval of no width.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [tail, 1 - tail]) if samples.size else (value, value)
    return Interval(value, float(low), float(high))
