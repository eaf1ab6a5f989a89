"""The flags of every command that reads data sets: a command takes `Data`, or `DataFlags` with a prefix of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moir_edge.cli.groups import Flags, Group, values_of

if TYPE_CHECKING:
    from moir_edge.data.formats import DataSource

__all__ = ["Data", "DataFlags", "OptionalData", "data_group", "parse_columns"]


@dataclass(frozen=True, kw_only=True)
class DataFlags(Flags):
    """Flags of one data set, named as the fields of `DataSource`."""

    argument: str = "data"
    path: Annotated[
        Path | None,
        typer.Option(
            help="Rows: JSON lines with the keys image or images, prompt, context, answers, task; or "
            "data in the format of --data-format."
        ),
    ] = None
    format: Annotated[
        str | None,
        typer.Option(
            help="Format of --data: jsonl, vqa-v2, nlvr2, coco-captions, or hub for a folder or id of a hub data set."
        ),
    ] = None
    annotations: Annotated[
        Path | None, typer.Option(help="File of the answers, for the format vqa-v2.")
    ] = None
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the images; the formats jsonl and hub do not need it."),
    ] = None
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Template of the prompts, with {text} for the question or statement; for captions, "
            "the whole request."
        ),
    ] = None
    split: Annotated[str | None, typer.Option(help="Split of a hub data set that has several.")] = (
        None
    )
    subset: Annotated[
        str | None, typer.Option(help="Subset of a hub data set that has several.")
    ] = None
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of a hub data set as ROLE=COLUMN, such as prompt=query or images=left,right; "
            "repeatable. Roles: images, prompt, context, answers, id, group, task. Columns with "
            "usual names are found automatically."
        ),
    ] = None
    task: Annotated[
        str | None,
        typer.Option(help="Task of a hub data set: vqa (the default), statement or caption."),
    ] = None

    def source(self, *, answers: bool = True) -> DataSource:
        """Return the source that the flags name.

        Args:
            answers: Whether the answers are of use.

        Raises:
            UnsupportedError: There are no data; or the format or a column's role is unknown.
            DataError: The format needs a flag that is missing, or has no use for one that is given.
        """
        from moir_edge.data.formats import DataSource
        from moir_edge.errors import UnsupportedError

        if self.path is None:
            given = [f"`{self.argument}.{name}`" for name in self._given()] or ["nothing"]
            raise UnsupportedError(f"{' and '.join(given)} without `{self.argument}`; add it")
        return DataSource(
            path=self.path,
            format=self.format or "jsonl",
            annotations=self.annotations,
            images=self.images,
            prompt=self.prompt,
            split=self.split,
            subset=self.subset,
            columns=parse_columns(self.columns or (), f"`{self.argument}.columns`"),
            task=self.task,
            answers=answers,
            argument=self.argument,
        )

    def optional_source(self, *, answers: bool = True) -> DataSource | None:
        """Return the source that the flags name; None where no flag is given. Arguments and errors are those of `source`."""
        return self.source(answers=answers) if self.path or self._given() else None

    def in_place_of(self, other: DataSource | None) -> DataSource | None:
        """Return the source that the flags name; what they leave open is as in another source of the same format.

        Raises:
            UnsupportedError: As in `source`.
            DataError: As in `source`.
        """
        if self.path is None or other is None or self.format not in (None, other.format):
            return self.optional_source(answers=False)
        return replace(
            other,
            path=self.path,
            annotations=self.annotations,
            images=self.images or other.images,
            split=self.split,
            argument=self.argument,
        )

    def _given(self) -> list[str]:
        """Return the names of the flags that were given, the rows themselves left out."""
        return [name for name, value in values_of(self).items() if value not in ("jsonl", [])]


def data_group(
    prefix: str,
    argument: str,
    *,
    fields: Iterable[str] = ("format", "images", "prompt", "split", "subset", "columns", "task"),
    help: Mapping[str, str],
) -> Group:
    """Return the group whose flags begin with a prefix, such as `--calib-data`, `--calib-format` and `--calib-images`.

    Args:
        prefix: What the flags begin with.
        argument: What the flags fill in the Python API, such as `calibration.data`.
        fields: The fields that the command takes besides `path`.
        help: Help texts by field, where they differ from those of `Data`.
    """
    names = {name: f"{prefix}_{_FLAG_NAMES.get(name, name)}" for name in fields}
    return Group(argument=argument, names={"path": f"{prefix}_data", **names}, help=help)


_FLAG_NAMES = {"columns": "column"}
_DATA_NAMES = {
    "path": "data",
    "format": "data_format",
    "annotations": "annotations",
    "images": "images",
    **{
        name: f"data_{_FLAG_NAMES.get(name, name)}"
        for name in ("prompt", "split", "subset", "columns", "task")
    },
}

Data = Annotated[
    DataFlags, Group(names=_DATA_NAMES, required=("path",), defaults={"format": "jsonl"})
]
OptionalData = Annotated[
    DataFlags,
    Group(
        names=_DATA_NAMES,
        defaults={"format": "jsonl"},
        help={"path": "Rows to use instead of generated prompts."},
    ),
]


def parse_columns(options: Sequence[str], flag: str) -> dict[str, str]:
    """Return ``{"prompt": "query"}`` from ``["prompt=query"]``.

    Args:
        options: As given on the command line.
        flag: With which, for the message.

    Raises:
        DataError: An option without ``=``, or a role that is given twice.
    """
    from moir_edge.errors import DataError

    columns: dict[str, str] = {}
    for option in options:
        role, separator, column = option.partition("=")
        if not separator or not column:
            raise DataError(f"{flag} {option!r}: expected ROLE=COLUMN, such as prompt=query")
        if role in columns:
            raise DataError(f"{flag} {role}= is given twice; name one column for it")
        columns[role] = column
    return columns
