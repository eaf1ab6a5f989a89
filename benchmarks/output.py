"""Write a report folder so that it appears whole or not at all."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from moir_edge.benchmarks.schema import ComparisonReport
from moir_edge.errors import DataError, EnvironmentProblem

__all__ = ["HTML_NAME", "JSON_NAME", "check_output", "summary_json", "write_report"]

JSON_NAME = "report.json"
HTML_NAME = "report.html"


def check_output(output: Path, *, force: bool) -> None:
    """Refuse an output folder that may not be written; call it before the long work.

    Args:
        output: The report folder to be.
        force: Allow replacing a report. A folder that holds anything else is refused even so.

    Raises:
        DataError: The folder exists and may not be replaced.
    """
    if not output.exists():
        return
    if output.is_dir() and not any(output.iterdir()):
        return
    if not force:
        raise DataError(f"{output} exists; give another -o or replace the report with --force")
    if not (output / JSON_NAME).is_file():
        raise DataError(
            f"{output} exists and is no report, so --force will not replace it; remove it yourself"
        )


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
    from moir_edge.benchmarks.report import render_html

    check_output(output, force=force)
    target = output.absolute()
    staging = target.parent / f".{target.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        staging.mkdir(parents=True)
        (staging / JSON_NAME).write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (staging / HTML_NAME).write_text(render_html(report), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {output}: {error.strerror or error}; nothing was left behind"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def summary_json(report: ComparisonReport) -> str:
    """Return the report as JSON without raw samples and single rows, which `report.json` keeps."""
    record = report.model_dump(mode="json")
    for candidate in record["candidates"]:
        del candidate["rows"], candidate["changed"]
        _drop_samples(candidate)
    return json.dumps(record, indent=1, ensure_ascii=False)


def _drop_samples(record: dict[str, Any]) -> None:
    record.pop("samples", None)
    for value in record.values():
        if isinstance(value, dict):
            _drop_samples(value)
