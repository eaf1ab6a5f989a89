"""A square table of learned positions, read between its entries for a grid of patches of another shape."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["interpolation_tables"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def interpolation_tables(places: Ints, size: tuple[int, int], side: int) -> tuple[Ints, Floats]:
    """Return the entries around each patch, and the share of each.

    The corners of the grid lie on the corners of the table.

    Args:
        places: Row and column of each patch, (patches, 2).
        size: Rows and columns of patches.
        side: Rows of the table, which are its columns too.

    Returns:
        Entries of the flat table, (patches, 4) int64, and their shares, (patches, 4) float32, which add up to 1.

    Source: `get_vision_interpolation_indices_and_weights` of transformers (bilinear, aligned corners), with its order
        of float32 operations.
    """
    rows, row_shares = _axis(places[:, 0], size[0], side)
    columns, column_shares = _axis(places[:, 1], size[1], side)
    entries = rows[:, :, None] * side + columns[:, None, :]
    shares = row_shares[:, :, None] * column_shares[:, None, :]
    return entries.reshape(-1, 4), shares.reshape(-1, 4)


def _axis(places: Ints, size: int, side: int) -> tuple[Ints, Floats]:
    """Return the two neighbours on one axis and their shares, (patches, 2) each."""
    scaled = places.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
    lower = np.floor(scaled)
    offsets = np.arange(2, dtype=np.float32)
    distance = np.abs(scaled[:, None] - lower[:, None] - offsets)
    entries = np.minimum(lower.astype(np.int64)[:, None] + np.arange(2), side - 1)
    return entries, np.maximum(np.float32(1) - distance, np.float32(0))
