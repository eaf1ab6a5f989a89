from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import quantize_256m
from benchmarks.peers.quantize_256m import METHODS, main, table
from benchmarks.peers.smolvlm_256m import write_rows
from moir_edge.calibration.methods import registry


def _result(method: str = "rtn", rows: int = 0, quantize: float = 10.4) -> dict[str, Any]:
    return {
        "method": method,
        "rows": rows,
        "seconds": {"calibrate": 30.0 if rows else 0.0, "quantize": quantize, "write": 2.0},
        "processor_seconds": 11.9,
        "peak_memory_bytes": 1_500_000_000,
        "base_memory_bytes": 100_000_000,
        "fp32_bytes": 1_000_000_000,
        "int4_bytes": 158_500_000,
    }


def test_every_method_is_measured() -> None:
    assert set(METHODS) == set(registry.METHODS)


def test_table() -> None:
    assert table([_result(), _result("gptq", rows=8)]).splitlines()[2:] == [
        "| `rtn` | – | 12 | 12 | 1500 | 1.50 | 158 |",
        "| `gptq` | 30 (8 rows) | 12 | 12 | 1500 | 1.50 | 158 |",
    ]


@pytest.mark.parametrize(
    ("method", "seconds", "code"), [("rtn", 10, 0), ("rtn", 70, 1), ("awq", 70, 0)]
)
def test_only_round_to_nearest_is_held_to_the_bounds(
    method: str,
    seconds: float,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(quantize_256m, "prepare", lambda *_: None)
    monkeypatch.setattr(
        quantize_256m, "_in_process", lambda name, _: _result(name, quantize=seconds)
    )
    output = tmp_path / "result.json"
    words = ["-o", str(output), "--work", str(tmp_path / "work"), "--method", method]
    assert main(words) == code
    assert json.loads(output.read_text())[0]["method"] == method
    assert f"| `{method}` |" in capsys.readouterr().out


def test_bad_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["-o", "x.json", "--work", str(tmp_path), "--rows", "0"])
    assert "must be at least 1, got '0'" in capsys.readouterr().err


def test_rows_are_pictures_of_noise(tmp_path: Path) -> None:
    path = write_rows(tmp_path, 2)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    pictures = [(path.parent / row["image"]).read_bytes() for row in rows]
    assert len(pictures) == 2
    assert pictures[0] != pictures[1]
