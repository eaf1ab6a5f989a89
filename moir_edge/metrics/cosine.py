"""The cosine between vectors, the same in every report."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["cosines"]


def cosines(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the cosine between vectors of the last axis, computed in float64.

    Args:
        got: (…, width).
        expected: The same shape.

    Returns:
        (vectors,): 1 for two vectors of zeros, 0 where one of them is zero or not finite.
    """
    left, right = (
        array.reshape(-1, array.shape[-1]).astype(np.float64) for array in (got, expected)
    )
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    both_zero = ~left.any(axis=1) & ~right.any(axis=1)
    sound = np.isfinite(norms) & (norms > 0)
    products = np.einsum(
        "vd,vd->v", np.where(sound[:, None], left, 0), np.where(sound[:, None], right, 0)
    )
    cosine: npt.NDArray[np.float64] = np.where(
        sound, products / np.where(sound, norms, 1), both_zero
    )
    return np.clip(cosine, -1, 1)
