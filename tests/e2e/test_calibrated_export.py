"""A user calibrates with rows of the demo, under degraded conditions too, and asks the bundle something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moir_edge.cli.main import main


@pytest.mark.parametrize(("precision", "target"), [("int8", "cpu"), ("fp8", "jetson-thor")])
def test_export_calibrates_and_the_bundle_answers(
    precision: str,
    target: str,
    demo_checkpoint: Path,
    demo_output: Path,
    demo_image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = (demo_output / "data" / "data.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        names = record.pop("images", None) or [record.pop("image")]
        record["images"] = [str(demo_output / "data" / name) for name in names]
    calibration, evaluation = tmp_path / "calib.jsonl", tmp_path / "eval.jsonl"
    calibration.write_text("\n".join(["{", *map(json.dumps, records[:12])]))
    evaluation.write_text("\n".join(map(json.dumps, records[12:])))
    words = ["export", str(demo_checkpoint), "-o", str(tmp_path / "bundle")]
    words += ["--precision", precision, "--target", target]
    words += ["--calib-data", str(calibration), "--eval-data", str(evaluation), "--calib-rows", "9"]
    assert main([*words, "--balance", "clean,blur=3.5px,word-dropout"]) == 0
    printed = capsys.readouterr().out
    assert f"decoder   {precision} " in printed
    assert "calibrated with 9 rows of calib.jsonl (3 " in printed
    assert f"skipped {calibration}:1: not valid JSON" in printed
    question = ["--image", str(demo_image), "--prompt", "how many digits are there ?"]
    assert main(["run", str(tmp_path / "bundle"), *question]) == 0
    assert capsys.readouterr().out.strip()
