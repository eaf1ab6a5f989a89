"""Agreement of two routers on sources: the one rule for `compare`, `bench`, calibration and export.

- Figures count the tokens that the reference routes.
- A token for which the reference names no source is left out of the figures on sources: there is nothing to find again.
- A token for which only the candidate names none counts as nothing found, and has no vector to compare.
- Vectors are compared by `moir_edge.metrics.cosine.cosines`: 1 for two vectors of zeros, 0 where one of them is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["best_found", "named_by_both", "sources_found"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def sources_found(got: Ints, expected: Ints) -> Floats:
    """Return, for each token that names a source, the share of its sources that are found again.

    Args:
        got: (tokens, k) positions, -1 for none.
        expected: The reference's, of the same tokens.

    Returns:
        (tokens that name a source,) in [0, 1].
    """
    named = expected >= 0
    hits = (expected[:, :, None] == got[:, None, :]).any(axis=2) & named
    counts = named.sum(axis=1)
    shares: Floats = hits.sum(axis=1)[counts > 0] / counts[counts > 0]
    return shares


def best_found(got: Ints, expected: Ints) -> Floats:
    """Return, for each token that names a source, 1 if the best one is the same and 0 if not."""
    named = expected[:, 0] >= 0
    return np.asarray((got[:, 0] == expected[:, 0])[named], np.float64)


def named_by_both(got: Ints, expected: Ints) -> npt.NDArray[np.bool_]:
    """Return for which tokens both name a source, (tokens,)."""
    both: Any = (got[:, 0] >= 0) & (expected[:, 0] >= 0)
    return np.asarray(both)
