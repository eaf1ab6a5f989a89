"""Answers and look-ups over the strength of a loss, on the shipped checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.lost_content import main
from moir_edge.demo import checkpoint_path


def test_the_command_measures_losses_and_draws_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "curves.svg"
    words = [
        "--rows",
        "6",
        "--split",
        "val",
        "--loss",
        "mask",
        "--strength",
        "0",
        "--strength",
        "1",
    ]
    assert main([*words, "--json", "--plot", str(plot)]) == 0
    (points,) = json.loads(capsys.readouterr().out).values()
    assert [(one["loss"], one["strength"]) for one in points] == [("mask", 0.0), ("mask", 1.0)]
    whole, lost = points
    assert whole["score_off"]["value"] >= 0.5 > lost["score_off"]["value"]
    for one in points:
        assert one["words"]["lookups"] >= 6
        assert one["words"]["chance"] == pytest.approx(4 / 36)
        assert one["cells"]["lookups"] == 0  # its direction is image-to-text
    svg = plot.read_text(encoding="utf-8")
    assert svg.startswith("<svg")
    assert "mask 1" in svg


def test_a_strength_out_of_range_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(checkpoint_path()), "--rows", "1", "--strength", "2"]) == 2
    assert capsys.readouterr().err.strip().endswith("loss mask: got strength 2, expected 0 to 1")
