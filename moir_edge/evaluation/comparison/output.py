"""Write a report folder so that it appears whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moir_edge.errors import DataError
from moir_edge.evaluation.comparison.schema import ComparisonReport
from moir_edge.evaluation.provenance import VersionedReport
from moir_edge.finite import json_text
from moir_edge.staging import FolderKind, check_replaceable, staged_folder

__all__ = [
    "HTML_NAME",
    "JSON_NAME",
    "check_output",
    "drop_samples",
    "report_text",
    "summary_json",
    "write_report",
]

JSON_NAME = "report.json"
HTML_NAME = "report.html"

_REPORT = FolderKind(
    name="report",
    marker=JSON_NAME,
    error=DataError,
    keys=("schema_version", "version", "candidates", "gates"),
    names=(HTML_NAME,),
)


def check_output(output: Path, *, force: bool) -> None:
    """Refuse an output folder that may not be written; call it before the long work.

    Args:
        output: The report folder to be.
        force: Allow replacing a report. A folder that holds anything else is refused even so.

    Raises:
        DataError: The folder exists and may not be replaced.
    """
    check_replaceable(output, _REPORT, force=force)


def write_report(report: ComparisonReport, output: Path, *, force: bool = False) -> None:
    """Write `report.json` and `report.html` into a new folder.

    Args:
        report: The report.
        output: The folder; it appears only when both files are complete.
        force: Replace a report that stands there.

    Raises:
        DataError: The folder exists and may not be replaced.
        EnvironmentProblem: The disk is full or not writable.
    """
    from moir_edge.evaluation.comparison.page import render_html

    with staged_folder(output, _REPORT, force=force) as folder:
        (folder / HTML_NAME).write_text(render_html(report), encoding="utf-8")
        (folder / JSON_NAME).write_text(report_text(report) + "\n", encoding="utf-8")


def report_text(report: VersionedReport, *, exclude: Mapping[str, Any] | None = None) -> str:
    """Return a report of any command as JSON; pydantic's own writer turns NaN and infinity into null.

    Args:
        report: The report.
        exclude: Fields to leave out, as pydantic's ``model_dump`` takes them.

    Raises:
        NotFiniteError: A figure is NaN or infinite; the message names its place.
    """
    fields = None if exclude is None else dict(exclude)
    return json_text(report.model_dump(mode="json", exclude=fields), indent=1, ensure_ascii=False)


def summary_json(report: ComparisonReport) -> str:
    """Return the report as JSON without raw samples and single rows, which `report.json` keeps."""
    record = report.model_dump(mode="json")
    for candidate in record["candidates"]:
        del candidate["rows"], candidate["changed"]
        drop_samples(candidate)
    return json_text(record, indent=1, ensure_ascii=False)


def drop_samples(record: Any) -> None:
    """Take the raw samples out of a report's plain JSON data, in place and at every depth."""
    if isinstance(record, dict):
        record.pop("samples", None)
    for value in record.values() if isinstance(record, dict) else record:
        if isinstance(value, dict | list):
            drop_samples(value)
