"""Reports on disk: what all of them begin with, and the folder of JSON and page that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import model_validator

from moir_edge.arguments import file_path, switch
from moir_edge.errors import DataError
from moir_edge.evaluation.provenance import DataFacts, Machine, Provenance
from moir_edge.finite import json_text
from moir_edge.metrics.records import Record
from moir_edge.staging import FolderKind, check_replaceable, staged_folder
from moir_edge.version import __version__

__all__ = [
    "VersionedReport",
    "check_output",
    "page_name",
    "report_kind",
    "report_text",
    "write_report",
]


def report_kind(name: str, stem: str, *keys: str) -> FolderKind:
    """Return the kind of a folder that holds ``<stem>.json`` and ``<stem>.html``.

    Args:
        name: As messages call the report.
        stem: Of both files.
        keys: Keys of the JSON that tell a report written before folders had a record.
    """
    return FolderKind(
        name=name,
        marker=f"{stem}.json",
        error=DataError,
        keys=("schema_version", "version", *keys),
        names=(f"{stem}.html",),
    )


class VersionedReport(Record):
    """Base of the reports on disk: a file of another schema version is refused by name.

    Attributes:
        command: The command that writes such reports.
        kind: The folder that holds one, with the JSON file by which it is known and the page beside it.
        current_version: Schema version that this moir-edge reads and writes.
        notices: What a reader must know before the figures; printed at the top of terminal output and page.
    """

    command: ClassVar[str]
    kind: ClassVar[FolderKind]
    current_version: ClassVar[int]

    schema_version: int
    created: str
    version: str
    notices: tuple[str, ...] = ()
    provenance: Provenance

    @staticmethod
    def header(provenance: Provenance, notices: Iterable[str]) -> dict[str, Any]:
        """Return the fields that every report begins with."""
        return {
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "version": __version__,
            "notices": tuple(notices),
            "provenance": provenance,
        }

    def summary(self) -> str:
        """Return the report as JSON without what only the file keeps."""
        return report_text(self)

    @property
    def machine(self) -> Machine:
        """The machine, its load and its package versions."""
        return self.provenance.machine

    @property
    def data(self) -> DataFacts | None:
        """The rows; None where prompts were made from a seed."""
        return self.provenance.data

    @model_validator(mode="before")
    @classmethod
    def _refuse_other_versions(cls, record: Any) -> Any:
        """Refuse a record of another schema version before its fields are looked at.

        Raises:
            DataError: The version differs.
        """
        if isinstance(record, dict):
            version = record.get("schema_version", cls.current_version)
            if version != cls.current_version:
                raise DataError(
                    f"this {cls.command} report has schema version {version}, this moir-edge reads "
                    f"{cls.current_version}; run `moir-edge {cls.command}` again"
                )
        return record


Report = TypeVar("Report", bound=VersionedReport)


def page_name(report: type[VersionedReport] | VersionedReport) -> str:
    """Return the name of the page in the folder of a report."""
    return report.kind.names[0]


def check_output(report: type[VersionedReport], output: str | Path | None, *, force: bool) -> None:
    """Refuse an output folder that may not be written; call it before the long work.

    Args:
        report: What is to be written.
        output: The folder to be; None writes nothing.
        force: Allow replacing a report of that kind. A folder that holds anything else is refused even so.

    Raises:
        DataError: The folder exists and may not be replaced.
    """
    switch("force", force)
    if (path := file_path("output", output)) is not None:
        check_replaceable(path, report.kind, force=force)


def write_report(
    report: Report, page: Callable[[Report], str], output: str | Path | None, *, force: bool = False
) -> None:
    """Write JSON and page into a new folder, which appears only when both are complete.

    Args:
        report: The report.
        page: Renders it as HTML.
        output: The folder; None writes nothing.
        force: Replace a report of that kind that stands there.

    Raises:
        DataError: The folder exists and may not be replaced.
        EnvironmentProblem: The disk is full or not writable.
    """
    if output is None:
        return
    with staged_folder(output, report.kind, force=force) as folder:
        (folder / page_name(report)).write_text(page(report), encoding="utf-8")
        (folder / report.kind.marker).write_text(report_text(report) + "\n", encoding="utf-8")


def report_text(
    report: VersionedReport, *, exclude: Mapping[str, Any] | None = None, samples: bool = True
) -> str:
    """Return a report as JSON; pydantic's own writer turns NaN and infinity into null.

    Args:
        report: The report.
        exclude: Fields to leave out, as pydantic's ``model_dump`` takes them.
        samples: Keep raw samples.

    Raises:
        NotFiniteError: A figure is NaN or infinite; the message names its place.
    """
    record = report.model_dump(mode="json", exclude=None if exclude is None else dict(exclude))
    if not samples:
        _drop_samples(record)
    return json_text(record, indent=1, ensure_ascii=False)


def _drop_samples(record: Any) -> None:
    """Take the raw samples out of plain JSON data, in place and at every depth."""
    if isinstance(record, dict):
        record.pop("samples", None)
    for value in record.values() if isinstance(record, dict) else record:
        if isinstance(value, dict | list):
            _drop_samples(value)
