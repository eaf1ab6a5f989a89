"""Ranks and correlations of numbers, and how well one number tells two groups apart; numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moir_edge.checked import checked, numbers
from moir_edge.errors import DataError, NotFiniteError

__all__ = ["auroc", "pearson", "ranks", "spearman"]

Floats = npt.NDArray[np.float64]


@checked(values=numbers)
def ranks(values: npt.ArrayLike) -> Floats:
    """Return the rank of each value from 1; equal values share the mean of their ranks."""
    found = _vector("ranks", values)
    _, inverse, counts = np.unique(found, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Floats = (last - (counts - 1) / 2)[inverse]
    return shared


@checked(positives=numbers, negatives=numbers)
def auroc(positives: npt.ArrayLike, negatives: npt.ArrayLike) -> float:
    """Return the share of (positive, negative) pairs in which the positive is larger; an equal pair counts half.

    Args:
        positives: Scores of one group, at least one.
        negatives: Scores of the other group, at least one.

    Raises:
        DataError: A group is empty.
        NotFiniteError: A score is NaN or infinite.
    """
    high, low = _vector("auroc", positives), _vector("auroc", negatives)
    if not len(high) or not len(low):
        raise DataError("auroc needs at least one score in each group")
    total = ranks(np.concatenate([high, low]))[: len(high)].sum()
    return float((total - len(high) * (len(high) + 1) / 2) / (len(high) * len(low)))


@checked(first=numbers, second=numbers)
def pearson(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Return the correlation of two lists, in [-1, 1]; None where one of them is constant.

    Raises:
        DataError: They differ in length, or hold fewer than two numbers.
        NotFiniteError: A number is NaN or infinite.
    """
    x, y = _vector("pearson", first), _vector("pearson", second)
    if len(x) != len(y) or len(x) < 2:
        raise DataError(
            f"a correlation needs two lists of the same length, at least 2; got {len(x)} and {len(y)}"
        )
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return None if norm == 0 else float(np.clip(x @ y / norm, -1.0, 1.0))


@checked(first=numbers, second=numbers)
def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Return the correlation of the ranks of two lists; see `pearson`."""
    return pearson(ranks(first), ranks(second))


def _vector(name: str, values: npt.ArrayLike) -> Floats:
    found = np.asarray(values, dtype=np.float64).reshape(-1)
    if not np.isfinite(found).all():
        raise NotFiniteError(f"{name}: a number is NaN or infinite")
    return found
