"""The table of data formats, by the name that `--data-format` takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from moir_edge.bundle.reader import file_sha256
from moir_edge.data.rows import Row
from moir_edge.errors import DataError, UnsupportedError, closest

if TYPE_CHECKING:
    from moir_edge.data.formats.source import DataSource

__all__ = ["DatasetFormat", "PlacedRow", "attempt", "format_names", "get_format", "register"]

PlacedRow: TypeAlias = "tuple[str, Row | DataError]"
"""Where a row stands, such as ``file:line``, and the row, or the error that says why it cannot be used."""


class DatasetFormat(ABC):
    """How one published format becomes rows; stateless.

    Attributes:
        name: What `--data-format` takes.
        takes_annotations: Whether answers may lie in a file of their own.
        takes_images: Whether the image folder is named apart from the data; it must be, then.
        takes_prompt: Whether the user may say how prompts are worded.
        takes_columns: Whether rows come from a table, whose split, subset, columns and task may be named.
    """

    name: ClassVar[str]
    takes_annotations: ClassVar[bool] = False
    takes_images: ClassVar[bool] = True
    takes_prompt: ClassVar[bool] = True
    takes_columns: ClassVar[bool] = False

    @abstractmethod
    def scan(self, source: DataSource) -> Iterator[PlacedRow]:
        """Give every row in the order of the file, one at a time; a source's flags have been checked.

        A row that cannot be used comes as the error that says why, so that the caller decides what it costs.

        Raises:
            DataError: The data set as a whole is not of this format; says where.
        """

    def check(self, source: DataSource) -> None:
        """Raise `DataError` where the rows do not exist; cheap."""
        if not source.path.is_file():
            raise DataError(f"{source.path} does not exist; give a file of the format {self.name}")

    def sha256(self, source: DataSource) -> str:
        """Return a hash of what the rows are read from; images need not count."""
        return file_sha256(source.path)


def attempt(where: str, make: Callable[[], Row]) -> PlacedRow:
    """Return a row with its place, or the error that making it raised."""
    try:
        return where, replace(make(), where=where)
    except DataError as error:
        return where, error


_FORMATS: dict[str, DatasetFormat] = {}


def register(kind: type[DatasetFormat]) -> type[DatasetFormat]:
    """Put a format in the table; use it as a class decorator.

    Raises:
        ValueError: Its name is taken.
    """
    if kind.name in _FORMATS:
        raise ValueError(f"data format {kind.name!r} is registered already")
    _FORMATS[kind.name] = kind()
    return kind


def format_names() -> tuple[str, ...]:
    """Return every known format, sorted."""
    return tuple(sorted(_FORMATS))


def get_format(name: str) -> DatasetFormat:
    """Return a format.

    Raises:
        UnsupportedError: It is unknown; the message lists the known ones.
    """
    found = _FORMATS.get(name)
    if found is None:
        raise UnsupportedError(f"unknown data format {name!r}: {closest(name, _FORMATS)}")
    return found
