"""Statistics on disk: how far a calibration came, over which rows, and everything needed to go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moir_edge.calibration.rows import CalibrationRows
from moir_edge.calibration.statistics_file import Progressed, read_statistics, write_statistics
from moir_edge.calibration.taps import GraphObservers
from moir_edge.errors import DataError
from moir_edge.whole_files import whole_file

__all__ = ["CollectionState"]


class CollectionState:
    """Observers and the rows that they have seen.

    Args:
        path: Where `save` writes; None saves nothing.
        observers: New ones, by component and activation.
        identity: Hash of all that the statistics depend on but the rows.
    """

    def __init__(
        self, path: Path | None, observers: Mapping[str, GraphObservers], identity: str
    ) -> None:
        self.observers = dict(observers)
        self._path = path
        self._identity = identity
        self._seen = self._saved = Progressed(0, "")

    def wants(self, rows: CalibrationRows) -> bool:
        """Say whether the row that was just read is new.

        Raises:
            DataError: The rows that the state has seen were others.
        """
        if rows.count == self._seen.rows:
            self._require(rows)
        return rows.count > self._seen.rows

    def advance(self, rows: CalibrationRows) -> None:
        """Note that the observers have seen the last row read."""
        self._seen = Progressed(rows.count, rows.sha256)

    def finish(self, rows: CalibrationRows) -> None:
        """Save, once all rows were read.

        Raises:
            DataError: The state has seen more rows than there are.
        """
        if rows.count < self._seen.rows:
            self._require(rows)
        if self._saved != self._seen:
            self.save()

    def save(self) -> None:
        """Write the state, whole or not at all.

        Raises:
            EnvironmentProblem: The folder cannot be written.
        """
        if self._path is None:
            return
        with whole_file(self._path) as stream:
            write_statistics(stream, self.observers, self._seen, self._identity)
        self._saved = self._seen

    def load(self) -> None:
        """Go on from the file at the path, if there is one.

        Raises:
            DataError: The file is damaged, contradicts itself, or was made from other graphs or settings.
        """
        if self._path is None or not self._path.exists():
            return
        if not self._path.is_file():
            raise DataError(f"the calibration cache {self._path} is not a regular file; remove it")
        try:
            self._seen = read_statistics(self._path, self.observers, self._identity)
        except OSError as error:
            raise DataError(
                f"the calibration cache {self._path} cannot be read ({error.strerror or error}); remove it"
            ) from error
        self._saved = self._seen

    def _require(self, rows: CalibrationRows) -> None:
        if (rows.count, rows.sha256) != self._seen:
            raise DataError(
                f"the calibration cache {self._path} was made from different rows than {rows.path} has now; "
                "remove it or give another folder"
            )
