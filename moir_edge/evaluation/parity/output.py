"""Write the folder of a run of `bench` so that it appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

from moir_edge.errors import DataError
from moir_edge.evaluation.comparison.output import drop_samples, report_text
from moir_edge.evaluation.parity.schema import BenchReport
from moir_edge.finite import json_text
from moir_edge.staging import FolderKind, check_replaceable, staged_folder

__all__ = ["HTML_NAME", "JSON_NAME", "check_output", "summary_json", "write_bench"]

JSON_NAME = "bench.json"
HTML_NAME = "bench.html"

_BENCH = FolderKind(
    name="bench report",
    marker=JSON_NAME,
    error=DataError,
    keys=("schema_version", "version", "prompts", "subjects"),
    names=(HTML_NAME,),
)


def check_output(output: Path, *, force: bool) -> None:
    """Refuse an output folder that may not be written; call it before the long work.

    Args:
        output: The folder to be.
        force: Allow replacing a bench report. A folder that holds anything else is refused even so.

    Raises:
        DataError: The folder exists and may not be replaced.
    """
    check_replaceable(output, _BENCH, force=force)


def write_bench(report: BenchReport, output: Path, *, force: bool = False) -> None:
    """Write `bench.json` and `bench.html` into a new folder.

    Args:
        report: The report.
        output: The folder; it appears only when both files are complete.
        force: Replace a bench report that stands there.

    Raises:
        DataError: The folder exists and may not be replaced.
        EnvironmentProblem: The disk is full or not writable.
    """
    from moir_edge.evaluation.parity.page import render_html

    with staged_folder(output, _BENCH, force=force) as folder:
        (folder / HTML_NAME).write_text(render_html(report), encoding="utf-8")
        (folder / JSON_NAME).write_text(report_text(report) + "\n", encoding="utf-8")


def summary_json(report: BenchReport) -> str:
    """Return the report as JSON without raw samples, which `bench.json` keeps."""
    record = report.model_dump(mode="json")
    drop_samples(record)
    return json_text(record, indent=1, ensure_ascii=False)
