"""Values that live across the cuts of graphs, row by row on disk: the next pass goes on from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from moir_edge.temporary import TemporaryFolder

__all__ = ["Recording", "Values"]

Values = dict[str, npt.NDArray[Any]]
"""What one run of a graph gave, by name."""


class Recording:
    """The live values of one component's runs, in order.

    Args:
        names: Of the values.

    Raises:
        OSError: The disk is full or not writable.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._folder = TemporaryFolder()
        self._rows = 0

    def add(self, row: int, runs: Sequence[Mapping[str, npt.NDArray[Any]]]) -> None:
        """Keep the runs of one row, by its number, which counts from 1; rows come in order."""
        with self._file(row).open("wb") as stream:
            for values in runs:
                for name in self.names:
                    np.save(stream, values[name], allow_pickle=False)
        self._rows += 1

    def holds(self, rows: int) -> bool:
        """Say whether every row up to that number was kept, and any of them had a run."""
        return self._rows == rows and self.example() is not None

    def example(self) -> Values | None:
        """Return the first run; None without one, as of a tower whose rows have no picture."""
        rows = range(1, self._rows + 1)
        return next((values for row in rows for values in self.runs(row)), None)

    def runs(self, row: int) -> Iterator[Values]:
        """Yield the runs of one row."""
        path = self._file(row)
        size = path.stat().st_size
        with path.open("rb") as stream:
            while stream.tell() < size:
                yield {name: _load(stream) for name in self.names}

    def _file(self, row: int) -> Path:
        return self._folder.path / f"{row}.npy"


def _load(stream: BinaryIO) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(stream, allow_pickle=False)
    return array
