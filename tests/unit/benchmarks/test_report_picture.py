"""The picture of a report."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.report_picture import main

GREEN = (0, 128, 0)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text("<body style='background: rgb(0 128 0)'></body>", encoding="utf-8")
    return path


@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("chromium-browser")),
    reason="Chromium is not installed: make browser",
)
def test_the_picture_shows_the_report_and_has_the_size_of_the_one_that_readme_shows(
    report: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "report.png"
    assert main([str(report), str(picture)]) == 0
    with Image.open(picture) as taken, Image.open("docs/report.png") as shown:
        assert taken.size == shown.size
        assert taken.convert("RGB").getpixel((600, 700)) == GREEN


def test_a_missing_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.html"), str(tmp_path / "report.png")]) == 2
    assert "none.html does not exist; give a report.html" in capsys.readouterr().err


def test_a_missing_browser_is_named(
    report: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    picture = report.with_suffix(".png")
    assert main([str(report), str(picture)]) == 2
    assert "Chromium is not installed; install it with `make browser`" in capsys.readouterr().err
    assert not picture.exists()
