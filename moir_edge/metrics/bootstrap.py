"""Bootstrap intervals of means and of paired ratios, so that a difference can be told from luck."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from moir_edge.arguments import integer
from moir_edge.checked import checked, numbers, required
from moir_edge.errors import DataError, NotFiniteError
from moir_edge.finite import count_text, is_finite
from moir_edge.metrics.records import Interval, PairedRatio

__all__ = [
    "CONFIDENCE",
    "RESAMPLES",
    "interval_of",
    "mean_interval",
    "median_interval",
    "paired_ratio",
    "ratio_interval",
    "resampled_means",
]

CONFIDENCE = 0.95
RESAMPLES = 1000
_CHUNK = 50

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@checked(scores=numbers, seed=required(integer))
def mean_interval(scores: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the mean of per-row scores with its interval.

    Args:
        scores: One score per row, at least one.
        seed: Seed of the resampling.

    Raises:
        DataError: There is no score.
        NotFiniteError: A score is NaN or infinite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise DataError("mean_interval needs at least one score")
    _require_finite(values)
    means = resampled_means(values[None], seed)[0]
    return interval_of(float(values.mean()), means)


@checked(scores=numbers, reference=numbers, seed=required(integer))
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
        DataError: The lists differ in length or are empty.
        NotFiniteError: A score is NaN or infinite.
    """
    if len(scores) != len(reference) or not scores:
        raise DataError("ratio_interval needs two score lists of the same rows, at least one row")
    pair = np.asarray([scores, reference], dtype=np.float64)
    _require_finite(pair)
    total = pair.mean(axis=1)
    if total[1] <= 0:
        return None
    means = resampled_means(pair, seed)
    # a resample in which the reference scores nothing has no ratio
    defined = means[1] > 0
    return interval_of(float(total[0] / total[1]), means[0][defined] / means[1][defined])


def median_interval(statistic: Callable[[Ints], Floats], count: int, *, seed: int) -> Interval:
    """Return a statistic of rows, such as a median, with its interval.

    Args:
        statistic: Row numbers (…, rows) to figures (…,).
        count: How many rows there are, at least one.
        seed: Seed of the resampling.
    """
    rows = np.arange(count)
    drawn = np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))
    return interval_of(float(statistic(rows)), statistic(drawn))


def paired_ratio(
    times: Sequence[float | None], baseline: Sequence[float | None], *, seed: int
) -> PairedRatio | None:
    """Return the median of paired ratios, with an interval over the pairs.

    A ratio within a turn is free of what slowed both sides, and of the length of the prompt; the median is not moved by
    one run that was interrupted.

    Args:
        times: Time i was taken next to time i of `baseline`; None where there is none.
        baseline: Any unit, the same as `times`.
        seed: Seed of the resampling.

    Returns:
        The ratio, or None without a single pair.
    """
    pairs = [
        (a, b) for a, b in zip(times, baseline, strict=False) if a is not None and b is not None
    ]
    if not pairs:
        return None
    ratios = np.array([a / b for a, b in pairs])
    found = median_interval(lambda at: np.median(ratios[at], axis=-1), len(ratios), seed=seed)
    return PairedRatio(**found.model_dump(), pairs=len(pairs))


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
    return Interval(value=value, low=float(low), high=float(high))
