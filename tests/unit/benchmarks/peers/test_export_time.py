"""The script that times whole exports against transformers' own exporter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.peers import export_time
from benchmarks.peers.export_time import BEGIN, DEEP, END, FP32, INT4, PEER, main, table
from moir_edge.errors import EnvironmentProblem
from moir_edge.progress import silent


def sample(seconds: float) -> dict[str, float]:
    return {
        "seconds": seconds,
        "cpu_seconds": seconds / 2,
        "peak_memory_bytes": 1e9,
        "load": 0.5,
    }


def samples(**changed: float) -> dict[str, list[dict[str, float]]]:
    seconds = {PEER: 100.0, FP32: 40.0, INT4: 50.0, DEEP: 44.0} | changed
    return {name: [sample(one), sample(one + 2), sample(9 * one)] for name, one in seconds.items()}


def test_table_has_medians_and_their_share_of_the_peer() -> None:
    lines = table(samples()).splitlines()
    assert lines[0].startswith("3 round(s), ")
    assert lines[0].endswith("load 0.5 to 0.5")
    assert "| moir-edge fp32 | 42 (0.41×) | 21 (0.41×) | 1000 (1.00×) |" in lines


def test_bounds_are_those_of_the_page_and_a_missed_one_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, page = tmp_path / "found.json", tmp_path / "page.md"
    found.write_text(json.dumps(samples()))
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    assert main(["--read", str(found), "--write", str(page), "-q"]) == 1  # the peak memory
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert "passed: seconds of moir-edge fp32 over transformers: 0.411765 (at most 0.5)" in text
    assert "FAILED: peak_memory_bytes of moir-edge fp32 over transformers: 1 (at most 0.9)" in text
    assert "passed: seconds of moir-edge fp32, 60 over moir-edge fp32: 1.09524" in text
    assert table(samples()) in page.read_text()


def test_other_figures_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tmp_path / "found.json"
    found.write_text("[]")
    assert main(["--read", str(found), "-q"]) == 2
    assert "holds other figures; give what -o wrote" in capsys.readouterr().err


def test_an_export_that_fails_is_named() -> None:
    with pytest.raises(EnvironmentProblem, match="peer ended with exit code 2: moir_edge nothing"):
        export_time._timed("peer", ["moir_edge", "nothing"], silent)
