"""Calibration data: rows of any format to model inputs one at a time, hashed by content, bad rows skipped and named."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from moir_edge.bundle.reader import file_sha256
from moir_edge.calibration.balance import Balance
from moir_edge.data.degradations import CLEAN
from moir_edge.data.formats import DataSource, as_source
from moir_edge.data.rows import Row
from moir_edge.errors import DataError
from moir_edge.finite import json_text
from moir_edge.runtime.processor import ModelInputs, Processor
from moir_edge.temporary import TemporaryFolder

__all__ = ["BadRow", "CalibrationRow", "CalibrationRows", "refuse_overlap", "row_sha256"]


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A line that was skipped.

    Attributes:
        where: ``file:line``, or where else it stands.
        reason: One line.
    """

    where: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CalibrationRow:
    """One row, ready for the graphs.

    Attributes:
        where: ``file:line``, or where else it stands.
        row: As it stands in the data; its answers serve to measure with, not to calibrate.
        inputs: Batch of one.
    """

    where: str
    row: Row
    inputs: ModelInputs


class CalibrationRows:
    """Rows of a data set as the runtime's own processor prepares them; iterate once.

    Args:
        data: The data set, a bare path for JSON lines; answers are not used.
        processor: The model's processor.
        limit: Yield this many rows at most.
        max_bad_rows: Skip this many rows that cannot be used at most.
        balance: The conditions under which the rows are seen.

    Attributes:
        path: Of the data set.
        limit: As given.
        balance: As given.
        count: Rows yielded so far.
        sha256: Hash of the content of the rows yielded so far, in order, and of their conditions; image files count by
            their bytes, names do not.
        bad_rows: What was skipped so far.
        conditions: Rows yielded so far, by condition.
    """

    def __init__(
        self,
        data: str | Path | DataSource,
        processor: Processor,
        *,
        limit: int,
        max_bad_rows: int,
        balance: Balance | None = None,
    ) -> None:
        self._source = as_source(data)
        self.path = self._source.path
        self.balance = balance or Balance()
        self.count = 0
        self.sha256 = hashlib.sha256().hexdigest()
        self.bad_rows: list[BadRow] = []
        self.conditions: Counter[str] = Counter()
        self._processor = processor
        self.limit = limit
        self._max_bad_rows = max_bad_rows

    def __iter__(self) -> Iterator[CalibrationRow]:
        """Yield the rows.

        Raises:
            DataError: The data cannot be read, hold no row that can be used, or too many that cannot.
        """
        for where, row in self._source.scan():
            if self.count >= self.limit:
                return
            try:
                yield self._accept(where, row)
            except DataError as error:
                self._skip(where, str(error))
        if not self.count:
            raise DataError(f"{self.path} holds no row to calibrate with {self._why_none()}")

    def again(self) -> CalibrationRows:
        """Return the same rows once more, to be read from the start."""
        return CalibrationRows(
            self._source,
            self._processor,
            limit=self.limit,
            max_bad_rows=self._max_bad_rows,
            balance=self.balance,
        )

    def to_record(self) -> dict[str, Any]:
        """Return what the manifest keeps, as JSON types."""
        source = self._source
        record: dict[str, Any] = {
            "file": source.path.as_posix() if source.format == "hub" else source.path.name,
            "format": source.format,
            "rows": self.count,
            "sha256": self.sha256,
            "bad_rows": [asdict(bad) for bad in self.bad_rows],
        }
        if self.balance.conditions:
            record["conditions"] = dict(self.conditions)
        return record

    def _accept(self, where: str, row: Row | DataError) -> CalibrationRow:
        if isinstance(row, DataError):
            raise row
        condition = self.balance.condition(self.count)
        inputs = self._seen(row, condition)
        digest = row_sha256(row) + ("" if condition == CLEAN else f" {condition}")
        self.count += 1
        self.conditions[condition] += 1
        self.sha256 = hashlib.sha256(f"{self.sha256}{digest}".encode()).hexdigest()
        return CalibrationRow(where=where, row=row, inputs=inputs)

    def _seen(self, row: Row, condition: str) -> ModelInputs:
        """Encode a row under a condition; a changed image does not outlive this."""
        if condition == CLEAN:
            return _encode(self._processor, row)
        with TemporaryFolder() as folder:
            return _encode(self._processor, self.balance.apply(row, condition, folder))

    def _skip(self, where: str, reason: str) -> None:
        reason = reason.removeprefix(f"{where}: ")
        self.bad_rows.append(BadRow(where=where, reason=reason))
        if len(self.bad_rows) > self._max_bad_rows:
            raise DataError(
                f"{where}: {reason}; that is bad row {len(self.bad_rows)}, and `calibration.max_bad_rows` is "
                f"{self._max_bad_rows}"
            )

    def _why_none(self) -> str:
        """Return how many rows were bad, the first of them, and what a good one is."""
        first = f", the first: {self.bad_rows[0].reason}" if self.bad_rows else ""
        line = 'write one {"image": …, "prompt": …} per line'
        remedy = f"; {line}" if self._source.format == "jsonl" else ""
        return f"({len(self.bad_rows)} bad){first}{remedy}"


def row_sha256(row: Row) -> str:
    """Return the hash of what a model sees of a row: the bytes of its images, its context and its prompt."""
    content = [[file_sha256(path) for path in row.images], row.context, row.prompt]
    return hashlib.sha256(json_text(content).encode()).hexdigest()


def refuse_overlap(
    calibration: str | Path | DataSource,
    evaluation: str | Path | DataSource,
    *,
    limit: int | None = None,
) -> None:
    """Refuse calibration data that hold rows of the evaluation: the figures would flatter the model.

    Args:
        calibration: The data set; rows that cannot be used are passed over, for they calibrate nothing.
        evaluation: The data set that the figures will be measured on.
        limit: Look at this many rows of the calibration data at most: later ones are not used either.

    Raises:
        DataError: A row stands in both, or one of the evaluation cannot be used.
    """
    places: dict[str, str] = {}
    for where, row in as_source(evaluation).scan():
        if isinstance(row, DataError):
            raise row
        places.setdefault(row_sha256(row), where)
    scanned = as_source(calibration).scan()
    usable = ((where, row) for where, row in scanned if isinstance(row, Row))
    pairs = ((where, places.get(row_sha256(row))) for where, row in islice(usable, limit))
    shared = [f"{where} is {place}" for where, place in pairs if place is not None]
    if shared:
        raise DataError(
            f"{len(shared)} row(s) are in the calibration and in the evaluation data, the first: {shared[0]}; "
            "calibrate with other rows"
        )


def _encode(processor: Processor, row: Row) -> ModelInputs:
    inputs = processor([row.conversation], [row.images])
    if inputs.pixel_values is not None and not np.isfinite(inputs.pixel_values).all():
        raise DataError(
            "its images hold a NaN or an infinity after preprocessing; check the image processor's mean and std"
        )
    return inputs
