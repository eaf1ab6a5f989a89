"""`export --target-recovery` and `inspect --quantization` on the demo, as a user types them, on few rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moir_edge.cli.main import main


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rows of the validation split."""
    from moir_edge.demo import demo_rows, write_jsonl

    folder = tmp_path_factory.mktemp("calibration")
    write_jsonl(demo_rows("val", count=12, seed=7), folder)
    return folder / "data.jsonl"


def test_a_mix_is_chosen_reported_and_shown(
    calibration: Path, demo_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    data = ["--calib-data", str(calibration), "--calib-rows", "4"]
    mix = ["--target-recovery", "90", "--sensitivity-rows", "2"]
    command = [
        "export",
        str(demo_checkpoint),
        "-o",
        str(bundle),
        "--precision",
        "int4",
        *data,
        *mix,
    ]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "target 90 %: task score on 8 held-out rows" in out
    assert "of 54 layers" in out
    assert "stays in floating point: its look-up decides which tokens match" in out
    report = json.loads((bundle / "reports" / "sensitivity.json").read_text(encoding="utf-8"))
    assert report["mix"]["chosen"]["recovery"] >= 90
    assert report["rows"] == report["rows_with_answers"] == 2

    assert main(["inspect", str(bundle), "--quantization"]) == 0
    shown = capsys.readouterr().out
    assert "all hashes verified" in shown
    assert "decoder: layers.3.down_proj" in shown
    assert "router against torch: indices" in shown
    assert main(["inspect", str(bundle), "--quantization", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["quantization"]
    assert record["sensitivity"] == report
    assert len(record["layers"]["decoder"]["weights"]) == 29


def test_flags_that_lack_what_they_need_are_refused(
    demo_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(demo_checkpoint), "-o", str(tmp_path / "out"), "--precision", "int4"]
    assert main([*command, "--target-recovery", "99"]) == 2
    assert "measured on calibration data; give --calib-data FILE" in capsys.readouterr().err
    assert main([*command, "--sensitivity-rows", "3"]) == 2
    assert "--sensitivity-rows is for --sensitivity" in capsys.readouterr().err
