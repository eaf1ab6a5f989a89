from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from moir_edge.errors import DataError, EnvironmentProblem, NotFiniteError
from moir_edge.evaluation.comparison.page import render_html
from moir_edge.evaluation.comparison.schema import ComparisonReport
from moir_edge.evaluation.writing import check_output, report_text, write_report


def test_report_folder_is_written_and_replaced_by_force(
    report: ComparisonReport, tmp_path: Path
) -> None:
    output = tmp_path / "deep" / "report"
    write_report(report, render_html, output)
    assert sorted(path.name for path in output.iterdir()) == [
        ".moir-edge.json",
        "report.html",
        "report.json",
    ]
    assert ComparisonReport.model_validate_json((output / "report.json").read_text()) == report
    with pytest.raises(
        DataError, match="exists; give another `output` or replace it with `force=True`"
    ):
        write_report(report, render_html, output)
    write_report(report, render_html, output, force=True)
    assert [path.name for path in output.parent.iterdir()] == ["report"]


def test_force_spares_what_is_no_report(report: ComparisonReport, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(
        DataError, match="is not a report that moir-edge wrote, so `force=True` will not replace it"
    ):
        write_report(report, render_html, tmp_path, force=True)
    assert (tmp_path / "precious.txt").exists()


def test_empty_folder_is_free(tmp_path: Path) -> None:
    check_output(ComparisonReport, tmp_path, force=False)


def test_nothing_half_written_stays(report: ComparisonReport, tmp_path: Path) -> None:
    def full(_: object) -> str:
        raise OSError(28, "No space left on device")

    with pytest.raises(
        EnvironmentProblem, match=r"disk full while writing .*; nothing was left behind"
    ):
        write_report(report, full, tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_summary_leaves_raw_samples_out(report: ComparisonReport) -> None:
    summary = json.loads(report.summary())
    assert '"samples"' not in report.summary()
    assert "rows" not in summary["candidates"][0]
    assert summary["candidates"][0]["ttft"]["median"] == report.reference.ttft.median
    assert summary["gates"][0]["figure"] == "recovery"


def test_a_report_of_an_earlier_schema_is_refused_by_name(report: ComparisonReport) -> None:
    old = report.model_dump(mode="json") | {"schema_version": 2}
    del old["provenance"]
    with pytest.raises(
        DataError, match=r"compare report has schema version 2, .* reads 3; run `moir-edge compare`"
    ):
        ComparisonReport.model_validate_json(json.dumps(old))


def test_no_report_holds_a_figure_that_is_not_finite(
    report: ComparisonReport, tmp_path: Path
) -> None:
    first, *others = report.candidates
    broken = first.model_copy(update={"load_seconds": math.nan})
    bad = report.model_copy(update={"candidates": (broken, *others)})
    message = r"candidates\[0\]\.load_seconds is NaN or infinite, which JSON cannot hold"
    with pytest.raises(NotFiniteError, match=message):
        report_text(bad)
    with pytest.raises(NotFiniteError, match=message):
        bad.summary()
