"""The flags of `export` that say with what data a model is calibrated, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moir_edge.cli.data_options import DataFlags, data_group
from moir_edge.cli.groups import Flags, values_of

if TYPE_CHECKING:
    from moir_edge.calibration import CalibrationSettings

__all__ = ["CalibrationFlags", "parse_smoothquant"]

_CALIBRATION_DATA = data_group(
    "calib",
    "calibration.data",
    help={
        "path": "Calibration data: JSON lines with the keys image or images, prompt, context; or data in "
        "the format of --calib-format.",
        "format": "Format of --calib-data: jsonl (the default), vqa-v2, nlvr2, coco-captions, or hub for a folder or id of "
        "a hub data set.",
        "images": "Folder of the images, for the formats vqa-v2, nlvr2 and coco-captions.",
        "prompt": "Template of the prompts, with {text} for the question; for captions, the whole request.",
        "columns": "Column of a hub data set as ROLE=COLUMN, such as prompt=query or images=left,right; repeatable.",
    },
)
_EVALUATION_DATA = data_group(
    "eval",
    "calibration.evaluation",
    fields=("format", "images", "split"),
    help={
        "path": "Evaluation data: the export stops if a row is in the calibration data too.",
        "format": "Format of --eval-data; the format of --calib-data by default.",
        "images": "Folder of the images of --eval-data; the folder of --calib-images by default.",
        "split": "Split of --eval-data, for the format hub.",
    },
)


@dataclass(frozen=True, kw_only=True)
class CalibrationFlags(Flags):
    """Flags of a calibration, named as the fields of `CalibrationSettings`."""

    argument: str = "calibration"
    data: Annotated[DataFlags, _CALIBRATION_DATA]
    balance: Annotated[
        str | None,
        typer.Option(
            help="Divide the rows equally over these conditions, named as in `diagnose`: "
            "clean,blur=3.5px,word-dropout. A condition named twice counts twice. By default all "
            "rows are clean."
        ),
    ] = None
    rows: Annotated[
        int | None,
        typer.Option(
            "--calib-rows",
            min=1,
            help="Number of rows to calibrate with, from the first; 256 by default.",
        ),
    ] = None
    method: Annotated[
        str | None,
        typer.Option(
            "--calib-method",
            help="Method that sets activation ranges: minmax, percentile, entropy or mse; mse by default.",
        ),
    ] = None
    cache: Annotated[
        Path | None,
        typer.Option(
            "--calib-cache",
            help="Folder that stores statistics, so that an interrupted calibration can resume.",
        ),
    ] = None
    evaluation: Annotated[DataFlags, _EVALUATION_DATA]
    smoothing: Annotated[
        str | None,
        typer.Option(
            "--smoothquant",
            help="SmoothQuant: an exponent from 0 to 1, search, or off; 0.5 by default.",
        ),
    ] = None
    min_snr_db: Annotated[
        float | None,
        typer.Option(
            "--min-snr",
            min=0,
            help="Least SNR of a quantized input, in dB (fp8: 5 dB less); an input below it stays in "
            "floating point; 30 by default.",
        ),
    ] = None
    max_bad_rows: Annotated[
        int | None,
        typer.Option(
            min=0, help="Most bad rows to skip before the calibration stops; 10 by default."
        ),
    ] = None

    def settings(self) -> CalibrationSettings | None:
        """Return the settings, or None without data.

        Raises:
            UnsupportedError: A setting without data, or one that does not exist.
            DataError: The data do not exist.
        """
        from moir_edge.calibration.settings import CalibrationSettings
        from moir_edge.errors import UnsupportedError

        chosen = values_of(self) | {"data": self.data.optional_source(answers=False)}
        chosen["evaluation"] = self.evaluation.in_place_of(chosen["data"])
        chosen = {name: value for name, value in chosen.items() if value is not None}
        if self.balance is not None:
            chosen["balance"] = tuple(self.balance.split(","))
        if self.smoothing is not None:
            chosen["smoothing"] = parse_smoothquant(self.smoothing)
        if chosen and "data" not in chosen:
            raise UnsupportedError(
                f"calibration {' and '.join(chosen)} given without calibration data; add `calibration.data=FILE`"
            )
        return CalibrationSettings(**chosen) if chosen else None


def parse_smoothquant(option: str) -> float | str:
    """Return an exponent as a number, and ``search`` and ``off`` as they are."""
    try:
        return float(option)
    except ValueError:
        return option
