"""Write the folder of a diagnosis so that it appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

from moir_edge.errors import DataError
from moir_edge.evaluation.comparison.output import report_text
from moir_edge.evaluation.diagnosis.schema import DiagnosisReport
from moir_edge.staging import FolderKind, check_replaceable, staged_folder

__all__ = ["HTML_NAME", "JSON_NAME", "check_output", "summary_json", "write_diagnosis"]

JSON_NAME = "diagnosis.json"
HTML_NAME = "diagnosis.html"

_DIAGNOSIS = FolderKind(
    name="diagnosis",
    marker=JSON_NAME,
    error=DataError,
    keys=("schema_version", "version", "sources", "unscored_rows"),
    names=(HTML_NAME,),
)


def check_output(output: Path, *, force: bool) -> None:
    """Refuse an output folder that may not be written; call it before the long work.

    Args:
        output: The folder to be.
        force: Allow replacing a diagnosis. A folder that holds anything else is refused even so.

    Raises:
        DataError: The folder exists and may not be replaced.
    """
    check_replaceable(output, _DIAGNOSIS, force=force)


def write_diagnosis(report: DiagnosisReport, output: Path, *, force: bool = False) -> None:
    """Write `diagnosis.json` and `diagnosis.html` into a new folder.

    Args:
        report: The diagnosis.
        output: The folder; it appears only when both files are complete.
        force: Replace a diagnosis that stands there.

    Raises:
        DataError: The folder exists and may not be replaced.
        EnvironmentProblem: The disk is full or not writable.
    """
    from moir_edge.evaluation.diagnosis.page import render_html

    with staged_folder(output, _DIAGNOSIS, force=force) as folder:
        (folder / HTML_NAME).write_text(render_html(report), encoding="utf-8")
        (folder / JSON_NAME).write_text(report_text(report) + "\n", encoding="utf-8")


def summary_json(report: DiagnosisReport) -> str:
    """Return the diagnosis as JSON without the routing maps, which `diagnosis.json` keeps."""
    sources = {"sources": {"__all__": {"routing"}}}
    return report_text(report, exclude=sources)
