"""Statistics on disk: how far a calibration came, over which rows, and everything needed to go on."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.rows import CalibrationRows
from moir_edge.calibration.taps import GraphObservers
from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.finite import count_text, is_finite

__all__ = ["CollectionState"]

_SEPARATOR = "|"


class CollectionState:
    """Observers and the rows that they have seen.

    Args:
        path: Where `save` writes; None saves nothing.
        observers: By component and activation.
        rows: Rows seen.
        sha256: `CalibrationRows.sha256` after them.
    """

    def __init__(
        self,
        path: Path | None,
        observers: Mapping[str, GraphObservers],
        *,
        rows: int = 0,
        sha256: str = "",
    ) -> None:
        self.observers = dict(observers)
        self._path = path
        self._rows = rows
        self._sha256 = sha256
        self._saved_rows = rows

    def wants(self, rows: CalibrationRows) -> bool:
        """Say whether the row that was just read is new.

        Raises:
            DataError: The rows that the state has seen were others.
        """
        if rows.count == self._rows:
            self._require(rows)
        return rows.count > self._rows

    def advance(self, rows: CalibrationRows) -> None:
        """Note that the observers have seen the last row read."""
        self._rows, self._sha256 = rows.count, rows.sha256

    def finish(self, rows: CalibrationRows) -> None:
        """Save, once all rows were read.

        Raises:
            DataError: The state has seen more rows than there are.
        """
        if rows.count < self._rows:
            self._require(rows)
        if self._saved_rows < self._rows:
            self.save()

    def save(self) -> None:
        """Write the state, whole or not at all.

        Raises:
            EnvironmentProblem: The folder cannot be written.
        """
        if self._path is None:
            return
        partial = self._path.with_suffix(f".{os.getpid()}.partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **self._arrays())
            partial.replace(self._path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise EnvironmentProblem(
                f"cannot write the calibration cache {self._path}: {error.strerror or error}"
            ) from error
        self._saved_rows = self._rows

    @classmethod
    def load(cls, path: Path) -> CollectionState:
        """Read a state.

        Raises:
            DataError: The file is damaged, or a statistic in it is NaN or infinite.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            count, sha256 = int(arrays.pop("rows")), str(arrays.pop("sha256"))
            _require_finite(path, arrays)
            observers = _observers(arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"the calibration cache {path} is damaged; remove it") from error
        return cls(path, observers, rows=count, sha256=sha256)

    def _require(self, rows: CalibrationRows) -> None:
        if rows.count != self._rows or rows.sha256 != self._sha256:
            raise DataError(
                f"the calibration cache {self._path} was made from different rows than {rows.path} has now; "
                "remove it or give another folder"
            )

    def _arrays(self) -> dict[str, Any]:
        arrays: dict[str, Any] = {"rows": np.array(self._rows), "sha256": np.array(self._sha256)}
        for component, observers in self.observers.items():
            for name, observer in observers.items():
                for field, array in observer.state().items():
                    arrays[_SEPARATOR.join((component, name, field))] = array
        return arrays


def _require_finite(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse statistics that hold NaN or infinity, by the activation's name."""
    for key, array in arrays.items():
        if not is_finite(array):
            component, name, field = key.split(_SEPARATOR)
            raise DataError(
                f"the calibration cache {path}: {field} of {name!r} in {component}: {count_text(array)}; remove it"
            )


def _observers(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, GraphObservers]:
    fields: dict[str, dict[str, dict[str, npt.NDArray[Any]]]] = {}
    for key, array in arrays.items():
        component, name, field = key.split(_SEPARATOR)
        fields.setdefault(component, {}).setdefault(name, {})[field] = array
    return {
        component: {name: ActivationObserver.from_state(state) for name, state in own.items()}
        for component, own in fields.items()
    }
