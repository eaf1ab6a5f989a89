"""Data sets: where the rows of one come from, and the table of published formats."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import ClassVar, TypeAlias

from moir_edge.bundle.reader import file_sha256
from moir_edge.data.rows import Row, row_limit
from moir_edge.errors import DataError, UnsupportedError, closest

__all__ = [
    "DataSource",
    "DatasetFormat",
    "PlacedRow",
    "as_source",
    "attempt",
    "format_names",
    "get_format",
    "read_dataset",
    "register",
]

PlacedRow: TypeAlias = "tuple[str, Row | DataError]"
"""Where a row stands, such as ``file:line``, and the row, or the error that says why it cannot be used."""


class DatasetFormat(ABC):
    """Reader of one published format; stateless.

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
        if not os.path.isfile(source.path):
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


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """The files of one data set.

    Attributes:
        path: The rows: JSON lines, questions, statements or captions, as the format has them; for `hub` a folder, or
            the id of a data set on the Hugging Face hub, such as ``Path("user/name")``.
        format: `jsonl`, `vqa-v2`, `nlvr2`, `coco-captions` or `hub`.
        annotations: The answers, where the format has them in a file of their own.
        images: Folder of the images, where the format does not name their paths.
        prompt: How prompts are worded: `{text}` stands for the question or statement. For captions it is the whole
            request. None for the format's own wording.
        split: Of a `hub` data set; None where it has only one.
        subset: Of a `hub` data set that has several (its hub page calls them so).
        columns: Role to column of a `hub` data set, such as ``{"prompt": "query"}``; see `moir_edge.data.formats.columns`.
        task: What all rows of a `hub` data set are: `vqa`, `statement` or `caption`.
        answers: Whether the answers are of use. Without, files that hold nothing else need not be given.
        argument: As what the source is given, for messages: `data`, `eval_data`, `calibration.data` or `calibration.evaluation`.

    Raises:
        UnsupportedError: The format is unknown.
        DataError: The format needs a file that is not given, or has no use for one that is.
    """

    path: Path
    format: str = "jsonl"
    annotations: Path | None = None
    images: Path | None = None
    prompt: str | None = None
    split: str | None = None
    subset: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None
    answers: bool = True
    argument: str = "data"

    def __post_init__(self) -> None:
        self._check_types()
        kind = get_format(self.format)
        _refuse_needless(self, kind)
        if kind.takes_images and self.images is None:
            raise DataError(
                f"the format {kind.name} needs the folder of the images: give {self.field_name('images')}"
            )
        if self.images is not None and not os.path.isdir(self.images):
            raise DataError(
                f"{self.field_name('images')} {self.images} is not a folder; give the one that holds them"
            )

    def _check_types(self) -> None:
        from moir_edge.arguments import file_path, mapping, text, wrong_type

        for name in ("path", "annotations", "images"):
            object.__setattr__(self, name, file_path(self.field_name(name), getattr(self, name)))
        for name in ("format", "prompt", "split", "subset", "task"):
            text(self.field_name(name), getattr(self, name))
        for name in ("path", "format"):
            if getattr(self, name) is None:
                raise wrong_type(self.field_name(name), None, "given")
        for role, column in mapping(self.field_name("columns"), self.columns).items():
            if not isinstance(column, str):
                raise wrong_type(f"{self.field_name('columns')} {role}=", column, "a string")

    def field_name(self, name: str) -> str:
        """Return how messages name a field, such as `data.split` or `calibration.data.images`."""
        return f"`{self.argument}.{name}`"

    def check(self) -> None:
        """Raise `DataError` where the rows do not exist; cheap."""
        get_format(self.format).check(self)

    def scan(self) -> Iterator[PlacedRow]:
        """Give every row with its place, one at a time; one that cannot be used as the error that says why.

        Raises:
            DataError: The data set as a whole cannot be used.
        """
        return get_format(self.format).scan(self)

    def read(self, *, limit: int | None = None) -> list[Row]:
        """Read the rows.

        Args:
            limit: Read this many rows at most; the images of later ones are not looked for.

        Raises:
            DataError: A file cannot be used, there is no row, or `limit` is not a number of rows.
        """
        rows = []
        for _, row in islice(self.scan(), row_limit(limit)):
            if isinstance(row, DataError):
                raise row
            rows.append(row)
        if not rows:
            raise DataError(f"{self.path} holds no rows")
        return rows

    def identity(self) -> dict[str, str | None]:
        """Return what tells one data set from another, as plain JSON data; paths and images do not count."""
        answers = self.annotations
        columns = ", ".join(f"{role}={name}" for role, name in sorted(self.columns.items()))
        return {
            "sha256": get_format(self.format).sha256(self),
            "format": self.format,
            "annotations_sha256": None if answers is None else file_sha256(answers),
            "prompt": self.prompt,
            "split": self.split,
            "subset": self.subset,
            "columns": columns or None,
            "task": self.task,
        }

    def record(self) -> dict[str, str | None]:
        """Return `identity` and the paths of the hashed files."""
        answers = self.annotations
        paths = {"path": str(self.path), "annotations": None if answers is None else str(answers)}
        return self.identity() | paths


def as_source(data: str | Path | DataSource) -> DataSource:
    """Return a source; a bare path is one of JSON lines."""
    return data if isinstance(data, DataSource) else DataSource(path=data)  # type: ignore[arg-type]


def read_dataset(
    data: str | Path,
    *,
    format: str = "jsonl",
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    limit: int | None = None,
    prompt: str | None = None,
    split: str | None = None,
    subset: str | None = None,
    columns: Mapping[str, str] | None = None,
    task: str | None = None,
) -> list[Row]:
    """Read a data set in one of the known formats; the arguments are those of `DataSource`.

    Args:
        data: The rows.
        format: Name of the format.
        annotations: The answers, for `vqa-v2`.
        images: Folder of the images, for all but `jsonl` and `hub`.
        limit: Read this many rows at most.
        prompt: How prompts are worded.
        split: Of a `hub` data set.
        subset: Of a `hub` data set.
        columns: Role to column of a `hub` data set.
        task: Of all rows of a `hub` data set.

    Raises:
        UnsupportedError: The format is unknown.
        DataError: A file is missing, is of another format, or there is no row.
    """
    source = DataSource(
        path=data,  # type: ignore[arg-type]  # becomes a path, as the two below
        format=format,
        annotations=annotations,  # type: ignore[arg-type]
        images=images,  # type: ignore[arg-type]
        prompt=prompt,
        split=split,
        subset=subset,
        columns=columns or {},
        task=task,
    )
    return source.read(limit=limit)


def _refuse_needless(source: DataSource, kind: DatasetFormat) -> None:
    given = {
        "annotations": (source.annotations, kind.takes_annotations),
        "images": (source.images, kind.takes_images),
        "prompt": (source.prompt, kind.takes_prompt),
        "split": (source.split, kind.takes_columns),
        "subset": (source.subset, kind.takes_columns),
        "columns": (source.columns or None, kind.takes_columns),
        "task": (source.task, kind.takes_columns),
    }
    for name, (value, is_taken) in given.items():
        if value is not None and not is_taken:
            raise DataError(
                f"the format {kind.name} takes no {source.field_name(name)}; "
                f"leave it out or name another {source.field_name('format')}"
            )
