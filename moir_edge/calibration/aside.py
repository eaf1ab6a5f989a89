"""Large arrays put aside in a temporary folder, from which they are read when they are wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.temporary import TemporaryFolder

__all__ = ["StoredArray"]


class StoredArray:
    """An array on disk; the folder stays for as long as one of its arrays does.

    Args:
        array: What is written, under a name that the folder does not have yet.
        folder: Where to.

    Raises:
        OSError: The disk is full or not writable.
    """

    def __init__(self, array: npt.NDArray[Any], folder: TemporaryFolder) -> None:
        self._folder = folder
        self._path = folder.path / f"{len(list(folder.path.iterdir()))}.npy"
        np.save(self._path, array)

    def read(self) -> npt.NDArray[Any]:
        """Return the array, a new one each time."""
        array: npt.NDArray[Any] = np.load(self._path)
        return array
