"""Settings of calibration, validated before any long work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from moir_edge.arguments import check_fields, number
from moir_edge.calibration.balance import parse_balance
from moir_edge.data.formats import DataSource, as_source
from moir_edge.errors import DataError, UnsupportedError, closest

__all__ = [
    "CALIBRATION_METHODS",
    "MIN_SNR_DB",
    "CalibrationMethod",
    "CalibrationSettings",
    "check_method",
]

CalibrationMethod = Literal["minmax", "percentile", "entropy", "mse"]
CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)
"""The ways to choose the range of an activation."""

MIN_SNR_DB = 30.0
"""Signal to noise under which an activation is not worth 8 bits: its error would be 3 % of it, as of a 5-bit one."""


def check_method(name: str) -> None:
    """Raise `UnsupportedError` for a name that is not in `CALIBRATION_METHODS`."""
    if name not in CALIBRATION_METHODS:
        raise UnsupportedError(
            f"unknown calibration method {name!r}: {closest(name, CALIBRATION_METHODS)}"
        )


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Data and methods of a calibration.

    Attributes:
        data: JSON lines of ``{"image" | "images", "prompt", "context"?}``, or a data set in another format.
        rows: Use the first rows of it, this many.
        method: Range of an activation: ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        smoothing: SmoothQuant exponent in [0, 1], ``search`` to choose one per activation, or ``off``.
        min_snr_db: Activations that 8 bits would leave with less signal to noise stay float, in dB; 0 takes all.
        max_bad_rows: Skip this many rows that cannot be used at most.
        decode_steps: Tokens that the decoder generates after each prompt, so that its ranges cover both phases.
        cache: Folder in which statistics are kept, so that an interrupted calibration goes on and a finished one is
            used again; None keeps nothing.
        evaluation: What the model will be evaluated on; a row that is in both is refused.
        balance: Conditions under which the rows are seen, each row under one and every condition equally often:
            ``clean`` and degradations as `diagnose` reads them, such as ``("clean", "blur=3.5px", "word-dropout")``.
            Stored with the levels written out; empty for clean rows alone.

    Raises:
        DataError: The data do not exist, or a number is out of range.
        UnsupportedError: An unknown method or degradation.
    """

    data: Path | DataSource
    rows: int = 256
    method: str = "mse"
    smoothing: float | str = 0.5
    min_snr_db: float = MIN_SNR_DB
    max_bad_rows: int = 10
    decode_steps: int = 4
    cache: Path | None = None
    evaluation: Path | DataSource | None = None
    balance: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "calibration ")
        object.__setattr__(self, "balance", parse_balance(self.balance).conditions)
        for name, data in (("calibration", self.data), ("evaluation", self.evaluation)):
            try:
                if data is not None:
                    as_source(data).check()
            except DataError as error:
                raise DataError(f"{name} data: {error}") from error
        check_method(self.method)
        for name, least in (("rows", 1), ("max_bad_rows", 0), ("decode_steps", 0)):
            value = getattr(self, name)
            if value < least:
                raise DataError(f"calibration {name} is {value}; expected at least {least}")
        if not math.isfinite(self.min_snr_db):
            raise DataError(
                f"calibration min_snr_db is {self.min_snr_db}; expected a finite number of dB"
            )
        self._check_smoothing()

    def _check_smoothing(self) -> None:
        if not isinstance(self.smoothing, str):
            object.__setattr__(self, "smoothing", number("calibration smoothing", self.smoothing))
        elif self.smoothing in ("search", "off"):
            return
        if (
            self.smoothing is None
            or isinstance(self.smoothing, str)
            or not 0 <= self.smoothing <= 1
        ):
            raise UnsupportedError(
                f"smoothing is {self.smoothing!r}; expected search, off or an exponent from 0 to 1 (`calibration.smoothing`)"
            )
