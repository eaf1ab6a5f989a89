"""Calibration data: JSON lines to model inputs one row at a time, hashed by content, bad rows skipped and named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moir_edge.benchmarks.data import Row, scan_rows
from moir_edge.bundle.reader import file_sha256
from moir_edge.errors import DataError
from moir_edge.runtime.chat import user_message
from moir_edge.runtime.processor import ModelInputs, Processor

__all__ = ["BadRow", "CalibrationRow", "CalibrationRows", "refuse_overlap", "row_sha256"]


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A line that was skipped.

    Attributes:
        where: ``file:line``.
        reason: One line.
    """

    where: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CalibrationRow:
    """One row, ready for the graphs.

    Attributes:
        where: ``file:line``.
        row: As it stands in the data; its answers serve to measure with, not to calibrate.
        inputs: Batch of one.
    """

    where: str
    row: Row
    inputs: ModelInputs


class CalibrationRows:
    """Rows of a data file as the runtime's own processor prepares them; iterate once.

    Args:
        path: JSON lines, see `moir_edge.benchmarks.read_rows`; answers are not used.
        processor: The model's processor.
        limit: Yield this many rows at most.
        max_bad_rows: Skip this many rows that cannot be used at most.

    Attributes:
        count: Rows yielded so far.
        sha256: Hash of the content of the rows yielded so far, in order; image files count by their bytes, names do
            not.
        bad_rows: What was skipped so far.
    """

    def __init__(
        self, path: str | Path, processor: Processor, *, limit: int, max_bad_rows: int
    ) -> None:
        self.path = Path(path)
        self.count = 0
        self.sha256 = hashlib.sha256().hexdigest()
        self.bad_rows: list[BadRow] = []
        self._processor = processor
        self._limit = limit
        self._max_bad_rows = max_bad_rows

    def __iter__(self) -> Iterator[CalibrationRow]:
        """Yield the rows.

        Raises:
            DataError: The file cannot be read, holds no row that can be used, or too many that cannot.
        """
        for where, row in scan_rows(self.path):
            if self.count >= self._limit:
                return
            try:
                yield self._accept(where, row)
            except DataError as error:
                self._skip(where, str(error))
        if not self.count:
            raise DataError(
                f"{self.path} holds no row to calibrate with ({len(self.bad_rows)} bad); "
                'write one {"image": …, "prompt": …} per line'
            )

    def to_record(self) -> dict[str, Any]:
        """Return what the manifest keeps, as JSON types."""
        return {
            "file": self.path.name,
            "rows": self.count,
            "sha256": self.sha256,
            "bad_rows": [asdict(bad) for bad in self.bad_rows],
        }

    def _accept(self, where: str, row: Row | DataError) -> CalibrationRow:
        if isinstance(row, DataError):
            raise row
        inputs = _encode(self._processor, row)
        digest = row_sha256(row)
        self.count += 1
        self.sha256 = hashlib.sha256(f"{self.sha256}{digest}".encode()).hexdigest()
        return CalibrationRow(where=where, row=row, inputs=inputs)

    def _skip(self, where: str, reason: str) -> None:
        reason = reason.removeprefix(f"{where}: ")
        self.bad_rows.append(BadRow(where=where, reason=reason))
        if len(self.bad_rows) > self._max_bad_rows:
            raise DataError(
                f"{where}: {reason}; that is bad row {len(self.bad_rows)}, and --max-bad-rows is "
                f"{self._max_bad_rows}"
            )


def row_sha256(row: Row) -> str:
    """Return the hash of what a model sees of a row: the bytes of its images, its context and its prompt."""
    content = [[file_sha256(path) for path in row.images], row.context, row.prompt]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def refuse_overlap(calibration: Path, evaluation: Path) -> None:
    """Refuse calibration data that hold rows of the evaluation: the figures would flatter the model.

    Args:
        calibration: JSON lines; lines that cannot be used are passed over, for they calibrate nothing.
        evaluation: JSON lines.

    Raises:
        DataError: A row stands in both, or one of the evaluation cannot be used.
    """
    places: dict[str, str] = {}
    for where, row in scan_rows(evaluation):
        if isinstance(row, DataError):
            raise row
        places.setdefault(row_sha256(row), where)
    usable = ((where, row) for where, row in scan_rows(calibration) if isinstance(row, Row))
    pairs = [(where, places.get(row_sha256(row))) for where, row in usable]
    shared = [f"{where} is {place}" for where, place in pairs if place is not None]
    if shared:
        raise DataError(
            f"{len(shared)} row(s) are in the calibration and in the evaluation data, the first: {shared[0]}; "
            "calibrate with other rows"
        )


def _encode(processor: Processor, row: Row) -> ModelInputs:
    messages = user_message(row.prompt, images=len(row.images), context=row.context)
    inputs = processor([messages], [row.images])
    if inputs.pixel_values is not None and not np.isfinite(inputs.pixel_values).all():
        raise DataError(
            "its images hold a NaN or an infinity after preprocessing; check the image processor's mean and std"
        )
    return inputs
