"""INT4 by other methods and block sizes than the default, from the command line to an answer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import moir_edge
from moir_edge.bundle import open_bundle
from moir_edge.cli.main import main
from moir_edge.demo import demo_rows, write_jsonl


def test_awq_from_the_command_line_to_an_answer(
    demo_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(demo_rows("val", count=6, seed=7), tmp_path / "data")
    bundle = tmp_path / "bundle"
    words = ["export", str(demo_checkpoint), "-o", str(bundle), "--precision", "int4"]
    words += ["--component-precision", "vision=int4"]
    assert main([*words, "--int4-method", "awq", "--calib-data", str(data)]) == 0
    assert f"calibrated with 6 rows of {data.name}" in capsys.readouterr().out
    report = json.loads((bundle / "reports" / "quantization.json").read_text())
    for component in ("vision", "decoder"):
        layers = [one for one in report[component]["weights"] if one["precision"] == "int4"]
        assert {one["method"] for one in layers} == {"awq"}
        # Some layers follow a normalisation, into which their scales are folded.
        assert any("migration" in one for one in layers)
        assert all(one["output_signal_to_noise_db"] > 10 for one in layers)
    picture = next(data.parent.rglob("*.png"))
    answer = moir_edge.load(bundle).generate("What colour is the digit?", [picture])
    assert answer.texts[0]


def test_larger_blocks_take_fewer_bytes_and_answer(
    demo_checkpoint: Path, demo_image: Path, tmp_path: Path
) -> None:
    sizes = {}
    for block_size in (32, 64):
        bundle = tmp_path / f"blocks-of-{block_size}"
        words = ["export", str(demo_checkpoint), "-o", str(bundle), "--precision", "int4"]
        assert main([*words, "--int4-block-size", str(block_size)]) == 0
        report = json.loads((bundle / "reports" / "quantization.json").read_text())
        assert report["decoder"]["block_size"] == block_size
        layers = [one for one in report["decoder"]["weights"] if one["precision"] == "int4"]
        assert layers
        manifest = open_bundle(bundle).manifest
        sizes[block_size] = manifest.components["decoder"].tensor_bytes
        weights = sum(math.prod(one["shape"]) for one in layers)
        assert moir_edge.load(bundle).generate("What colour is the digit?", [demo_image]).texts[0]
    # One float32 scale for each block: half as many of them.
    assert sizes[32] - sizes[64] == 4 * weights // 64
