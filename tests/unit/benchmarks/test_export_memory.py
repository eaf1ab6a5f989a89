"""The script that measures exports over the size of the checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import export_memory, random_checkpoint
from benchmarks.common import write_json
from benchmarks.export_memory import BEGIN, END, main, table
from benchmarks.random_checkpoint import FAMILIES, GEOMETRIES, Geometry, build_checkpoint
from moir_edge.checkpoint import load_checkpoint
from moir_edge.json_files import read_json

TINY = Geometry(
    hidden=32, layers=3, heads=2, head_width=16, vocabulary=400, vision_hidden=64, vision_layers=4
)


def sample(**changed: Any) -> dict[str, Any]:
    return {
        "model": "InternVL",
        "size": "2B",
        "setting": "int4",
        "checkpoint_bytes": 4_000_000_000,
        "seconds": 100.4,
        "cpu_seconds": 90.0,
        "peak_memory_bytes": 6_100_000_000,
        **changed,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoint_is_whole_and_stays_in_its_file(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(random_checkpoint.GEOMETRIES, "tiny", TINY)
    stored = build_checkpoint(tmp_path / "tiny", "tiny", family=family)
    loaded = load_checkpoint(tmp_path / "tiny", mapped=True)
    weights = list(loaded.model.parameters())
    assert {one.dtype for one in weights} == {torch.bfloat16}
    assert all(loaded.files.holds(one) for one in weights)
    assert stored - sum(one.nbytes for one in weights) < 20_000  # the header
    again = (tmp_path / "tiny" / "model.safetensors").stat().st_mtime_ns
    assert build_checkpoint(tmp_path / "tiny", "tiny", family=family) == stored
    assert (tmp_path / "tiny" / "model.safetensors").stat().st_mtime_ns == again


def test_memory_of_children_counts() -> None:
    code = "import time; block = bytearray(200 << 20); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            assert child.pid in export_memory._family(os.getpid())
            now, most = export_memory._memory(child.pid)
            assert 200 << 20 < now <= most
        finally:
            child.kill()
    assert export_memory._memory(child.pid) == (0, 0)


def test_table_of_kept_samples_is_written_into_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, kept = tmp_path / "page.md", tmp_path / "kept.json"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_json(kept, [sample(), sample(size="0.1B", peak_memory_bytes=9_000_000_000)])
    assert main(["-q", "--read", str(kept), "--write", str(page)]) == 0
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert "| InternVL | 2B | 4.00 | int4 | 100 | 90 | 6.10 | 1.52 |" in lines
    assert (
        "passed: InternVL 2B int4: peak memory in GB: 6.1 (at most 6.2)" in capsys.readouterr().out
    )
    assert read_json(kept)[0]["peak_memory_bytes"] == 6_100_000_000
    more = [sample(setting="int4 gptq"), sample(size="0.1B", seconds=7.0)]
    write_json(kept, more)
    assert main(["-q", "--read", str(kept), "--write", str(page)]) == 0
    rows = [line.split(" | ")[1:5:2] for line in page.read_text().splitlines()[4:-2]]
    assert rows == [["0.1B", "int4"], ["2B", "int4"], ["2B", "int4 gptq"]]
    assert "| InternVL | 0.1B | 4.00 | int4 | 7 |" in page.read_text()


def test_peak_past_the_bound_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "kept.json", [sample(peak_memory_bytes=6_300_000_000)])
    assert main(["-q", "--read", str(tmp_path / "kept.json")]) == 1
    assert (
        "FAILED: InternVL 2B int4: peak memory in GB: 6.3 (at most 6.2)" in capsys.readouterr().out
    )


@pytest.mark.parametrize(("family", "published"), [("internvl", 2.04e9), ("qwen3_vl", 2.13e9)])
def test_largest_geometry_has_the_published_number_of_weights(
    family: str, published: float
) -> None:
    """InternVL3.5-2B and Qwen3-VL-2B: a Qwen3-1.7B decoder and a tower of 0.3 or 0.4 billion."""
    shapes = random_checkpoint._shapes(random_checkpoint._skeleton(GEOMETRIES["2B"], family))
    count = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert count == pytest.approx(published, rel=0.02)
    assert table([sample()]).count("\n") == 2
