"""The flags of `export` that name calibration data, and what they come to: sources and settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moir_edge.cli.data_options import data_source

if TYPE_CHECKING:
    from moir_edge.calibration import CalibrationSettings
    from moir_edge.data.formats import DataSource

__all__ = [
    "Balance",
    "CalibColumns",
    "CalibData",
    "CalibFormat",
    "CalibImages",
    "CalibPrompt",
    "CalibSplit",
    "CalibSubset",
    "CalibTask",
    "EvalData",
    "EvalFormat",
    "EvalImages",
    "EvalSplit",
    "calibration_settings",
    "calibration_source",
    "evaluation_source",
    "parse_smoothquant",
]

CalibData = Annotated[
    Path | None,
    typer.Option(
        help="Data to calibrate int8 with: JSON lines of image or images, prompt, context; or what --calib-format says."
    ),
]
CalibFormat = Annotated[
    str | None,
    typer.Option(
        help="Format of --calib-data: jsonl (the default), vqa-v2, nlvr2, coco-captions, or hub for a folder or id of "
        "a hub data set."
    ),
]
CalibImages = Annotated[
    Path | None, typer.Option(help="Folder of the images of vqa-v2, nlvr2 and coco-captions.")
]
CalibPrompt = Annotated[
    str | None,
    typer.Option(help="Wording of the prompts, {text} for the question; the request for captions."),
]
CalibSplit = Annotated[
    str | None, typer.Option(help="Split of a hub data set, where it has several.")
]
CalibSubset = Annotated[
    str | None, typer.Option(help="Subset of a hub data set, where it has several.")
]
CalibColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--calib-column",
        help="ROLE=COLUMN of a hub data set, as prompt=query or images=left,right; repeatable.",
    ),
]
CalibTask = Annotated[
    str | None,
    typer.Option(help="Task of a hub data set: vqa (the default), statement or caption."),
]
Balance = Annotated[
    str | None,
    typer.Option(
        help="Conditions that the rows are shared out over equally, named as by diagnose: clean,blur=3.5px,word-dropout; "
        "one named twice counts twice. By default all are clean."
    ),
]
EvalData = Annotated[
    Path | None,
    typer.Option(help="Data of the evaluation: rows that would calibrate too are refused."),
]
EvalFormat = Annotated[
    str | None, typer.Option(help="Format of --eval-data; that of --calib-data by default.")
]
EvalImages = Annotated[
    Path | None, typer.Option(help="Images of --eval-data; those of --calib-data by default.")
]
EvalSplit = Annotated[str | None, typer.Option(help="Split of --eval-data, for the format hub.")]


def calibration_source(
    data: Path | None,
    data_format: str | None,
    *,
    images: Path | None = None,
    prompt: str | None = None,
    split: str | None = None,
    subset: str | None = None,
    columns: Sequence[str] | None = None,
    task: str | None = None,
) -> DataSource | None:
    """Return the calibration data that the flags name, or None where they name none.

    Raises:
        UnsupportedError: A flag without data, or an unknown format.
        DataError: The format needs a flag that is missing, or has no use for one that is given.
    """
    from moir_edge.errors import UnsupportedError

    if data is not None:
        return data_source(
            data,
            data_format or "jsonl",
            images=images,
            prompt=prompt,
            split=split,
            subset=subset,
            columns=columns,
            task=task,
            answers=False,
            flags="calib",
        )
    flags = {
        "format": data_format,
        "images": images,
        "prompt": prompt,
        "split": split,
        "subset": subset,
        "column": columns or None,
        "task": task,
    }
    given = [f"--calib-{name}" for name, value in flags.items() if value is not None]
    if given:
        raise UnsupportedError(f"{' and '.join(given)} without --calib-data; add it")
    return None


def evaluation_source(
    calibration: DataSource | None,
    data: Path | None,
    data_format: str | None,
    *,
    images: Path | None = None,
    split: str | None = None,
) -> DataSource | None:
    """Return the evaluation data that the flags name; what they leave open is as in the calibration data.

    Raises:
        UnsupportedError: A flag without data, or an unknown format.
        DataError: The format needs a flag that is missing, or has no use for one that is given.
    """
    from dataclasses import replace

    from moir_edge.errors import UnsupportedError

    if data is None:
        flags = {"format": data_format, "images": images, "split": split}
        given = [f"--eval-{name}" for name, value in flags.items() if value is not None]
        if given:
            raise UnsupportedError(f"{' and '.join(given)} without --eval-data; add it")
        return None
    if calibration is not None and data_format in (None, calibration.format):
        images = images or calibration.images
        return replace(calibration, path=data, images=images, split=split, flags="eval")
    return data_source(
        data, data_format or "jsonl", images=images, split=split, answers=False, flags="eval"
    )


def parse_smoothquant(option: str) -> float | str:
    """Return an exponent as a number, and ``search`` and ``off`` as they are."""
    try:
        return float(option)
    except ValueError:
        return option


def calibration_settings(
    data: Path | DataSource | None, *, balance: str | None = None, **given: object
) -> CalibrationSettings | None:
    """Return the settings, or None without data.

    Args:
        data: The calibration data.
        balance: Conditions with commas between them.
        given: Fields of the settings by name; None leaves one at its default.

    Raises:
        UnsupportedError: A setting without data, or one that does not exist.
        DataError: The data do not exist.
    """
    from moir_edge.calibration.settings import CalibrationSettings
    from moir_edge.errors import UnsupportedError

    chosen = {name: value for name, value in given.items() if value is not None}
    if balance is not None:
        chosen["balance"] = tuple(balance.split(","))
    if data is None:
        if chosen:
            raise UnsupportedError(
                f"calibration {' and '.join(chosen)} given without calibration data; add --calib-data FILE"
            )
        return None
    return CalibrationSettings(data=data, **chosen)  # type: ignore[arg-type]  # checked there
