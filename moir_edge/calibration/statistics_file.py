"""The file of a calibration's statistics: plain arrays in the order that the graphs give, with their SHA-256 at the end.

The file states no name, type or shape: all of them follow from the graphs. So its size is known before it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.taps import GraphObservers
from moir_edge.errors import DataError
from moir_edge.finite import json_text

__all__ = ["Progressed", "read_statistics", "write_statistics"]

_FIRST_LINE = b"moir-edge calibration statistics 3\n"
_KEYS = {"identity", "rows", "rows_sha256"}
# The header has two hashes and one number.
_LONGEST_HEADER = 1024


class Progressed(NamedTuple):
    """Progress of a calibration.

    Attributes:
        rows: Rows that the observers have seen.
        sha256: `CalibrationRows.sha256` after them.
    """

    rows: int
    sha256: str


class _Damage(Exception):  # noqa: N818 (becomes a `DataError` that names the file)
    """Says what is wrong with a file."""


def write_statistics(
    stream: BinaryIO,
    observers: Mapping[str, GraphObservers],
    progressed: Progressed,
    identity: str,
) -> None:
    """Write observers; the hash is taken of the bytes on their way.

    Args:
        stream: Takes the bytes in order.
        observers: By component and activation.
        progressed: The rows that they have seen.
        identity: Hash of all that the statistics depend on but the rows.
    """
    record = {"identity": identity, "rows": progressed.rows, "rows_sha256": progressed.sha256}
    header = json_text(record).encode() + b"\n"
    digest = hashlib.sha256()

    def write(part: bytes | memoryview) -> None:
        digest.update(part)
        stream.write(part)

    write(_FIRST_LINE)
    write(header)
    for array in _arrays(observers):
        write(_bytes_of(array))
    stream.write(digest.digest())


def read_statistics(
    path: Path, observers: Mapping[str, GraphObservers], identity: str
) -> Progressed:
    """Fill observers from a file.

    Args:
        path: The file.
        observers: New ones of the graphs, by component and activation; replaced by those of the file.
        identity: As it was written.

    Raises:
        DataError: The file is damaged, contradicts itself, or was made from other graphs or settings.
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        try:
            return _read(stream, observers, identity, path)
        except _Damage as damage:
            raise DataError(
                f"the calibration cache {path} is damaged ({damage}); remove it"
            ) from None


def _read(
    stream: BufferedReader, observers: Mapping[str, GraphObservers], identity: str, path: Path
) -> Progressed:
    digest = hashlib.sha256()
    if stream.read(len(_FIRST_LINE)) != _FIRST_LINE:
        raise _Damage("its first line is not that of calibration statistics")
    line = stream.readline(_LONGEST_HEADER)
    header = _header(line)
    if header["identity"] != identity:
        raise DataError(
            f"the calibration cache {path} was made from another model or with other settings; remove it"
        )
    size = sum(array.nbytes for array in _arrays(observers))
    expected = len(_FIRST_LINE) + len(line) + size + digest.digest_size
    found = os.fstat(stream.fileno()).st_size
    if found != expected:
        raise _Damage(f"it has {found:,} bytes, the graphs' statistics take {expected:,}")
    digest.update(_FIRST_LINE)
    digest.update(line)
    states = _filled(stream, digest, observers)
    if stream.read() != digest.digest():
        raise _Damage("its content does not have the SHA-256 at its end")
    for component, own in states.items():
        for name in tuple(own):  # one at a time, because they may be large
            observers[component][name] = _observer(own.pop(name), component, name)
    return Progressed(header["rows"], header["rows_sha256"])


def _header(line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Damage("its second line is not JSON") from error
    if not isinstance(header, dict) or set(header) != _KEYS:
        raise _Damage(f"its second line must have the keys {', '.join(sorted(_KEYS))}")
    if type(header["rows"]) is not int or header["rows"] < 1:
        raise _Damage("`rows` must be a whole number of at least 1")
    if not isinstance(header["rows_sha256"], str):
        raise _Damage("`rows_sha256` must be a string")
    return header


def _filled(
    stream: BufferedReader, digest: Any, observers: Mapping[str, GraphObservers]
) -> dict[str, dict[str, dict[str, npt.NDArray[Any]]]]:
    """Return the states of all observers as the file has them."""
    states: dict[str, dict[str, dict[str, npt.NDArray[Any]]]] = {}
    for component, own in observers.items():
        for name, observer in own.items():
            state = {
                field: np.empty(array.shape, _stored(array))
                for field, array in observer.state().items()
            }
            for array in state.values():
                stream.readinto(array.data.cast("B"))
                digest.update(array.data)
            states.setdefault(component, {})[name] = state
    return states


def _observer(
    state: Mapping[str, npt.NDArray[Any]], component: str, name: str
) -> ActivationObserver:
    try:
        return ActivationObserver.from_state(state)
    except DataError as error:
        raise _Damage(f"{name!r} in {component}: {error}") from error


def _arrays(observers: Mapping[str, GraphObservers]) -> Iterable[npt.NDArray[Any]]:
    return (
        array
        for own in observers.values()
        for observer in own.values()
        for array in observer.state().values()
    )


def _stored(array: npt.NDArray[Any]) -> np.dtype[Any]:
    """Return the type of an array in the file, whose bytes stand in one order on every machine."""
    return array.dtype.newbyteorder("<")


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array, _stored(array)).data.cast("B")
