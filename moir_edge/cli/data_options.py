"""The flags of every command that reads a data set: annotate its parameters with them, pass them to `data_source`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from moir_edge.data.formats import DataSource

__all__ = [
    "Annotations",
    "Data",
    "DataColumns",
    "DataFormat",
    "DataPrompt",
    "DataSplit",
    "DataSubset",
    "DataTask",
    "Images",
    "data_source",
    "parse_columns",
]

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Rows: JSON lines of image or images, prompt, context, answers, task; or what --data-format says.",
    ),
]
DataFormat = Annotated[
    str,
    typer.Option(
        "--data-format",
        help="Format of --data: jsonl, vqa-v2, nlvr2, coco-captions, or hub for a folder or id of a hub data set.",
    ),
]
Annotations = Annotated[
    Path | None, typer.Option("--annotations", help="The answers, for the format vqa-v2.")
]
Images = Annotated[
    Path | None,
    typer.Option("--images", help="Folder of the images; jsonl and hub name them themselves."),
]
DataPrompt = Annotated[
    str | None,
    typer.Option(
        "--data-prompt",
        help="Wording of the prompts, {text} for the question or statement; the request for captions.",
    ),
]
DataSplit = Annotated[
    str | None,
    typer.Option("--data-split", help="Split of a hub data set, where it has several."),
]
DataSubset = Annotated[
    str | None,
    typer.Option("--data-subset", help="Subset of a hub data set, where it has several."),
]
DataColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--data-column",
        help="ROLE=COLUMN of a hub data set, as prompt=query or images=left,right; repeatable. Roles: images, "
        "prompt, context, answers, id, group, task; known column names are found without.",
    ),
]
DataTask = Annotated[
    str | None,
    typer.Option(
        "--data-task", help="Task of a hub data set: vqa (the default), statement or caption."
    ),
]


def data_source(
    data: Path,
    data_format: str,
    *,
    annotations: Path | None = None,
    images: Path | None = None,
    prompt: str | None = None,
    split: str | None = None,
    subset: str | None = None,
    columns: Sequence[str] | None = None,
    task: str | None = None,
    answers: bool = True,
    flags: str = "data",
) -> DataSource:
    """Return the source that the flags name; the arguments are those of `DataSource`, `columns` as on the command line.

    Raises:
        UnsupportedError: The format or a column's role is unknown.
        DataError: The format needs a flag that is missing, or has no use for one that is given.
    """
    from moir_edge.data.formats import DataSource

    return DataSource(
        path=data,
        format=data_format,
        annotations=annotations,
        images=images,
        prompt=prompt,
        split=split,
        subset=subset,
        columns=parse_columns(columns or (), f"--{flags}-column"),
        task=task,
        answers=answers,
        flags=flags,
    )


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
            raise DataError(f"{flag} {option!r}: expected ROLE=COLUMN, as prompt=query")
        if role in columns:
            raise DataError(f"{flag} {role}= is given twice; name one column for it")
        columns[role] = column
    return columns
