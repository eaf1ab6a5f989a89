"""The fused router's benchmark, as far as it runs without a GPU: the order of calls, the figures, the checks, the skip."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import fused_candidates, fused_router
from benchmarks.fused_cases import CASES, Case
from benchmarks.fused_router import case_record, checks_of, take_turns
from moir_edge.router.fused import router_traffic

TARGET = fused_router.TARGET_CASE
FUSED = "fused, CUDA graph"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which would be measured")
def test_without_a_gpu_the_command_says_so_and_succeeds(tmp_path: Path) -> None:
    output = tmp_path / "fused.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fused_router", "-o", str(output)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.startswith("skipped: the fused router was not measured: ")
    assert len(done.stdout.splitlines()) == 1
    assert not output.exists()


def test_sizes_span_what_the_targets_name() -> None:
    assert {case.image_tokens for case in CASES} == {64, 256, 1024, 4096}
    assert {case.text_tokens for case in CASES} == {16, 64, 512}
    assert {case.hidden for case in CASES} == {576, 2048, 4096}
    assert TARGET in CASES
    assert len(set(CASES)) == 36


def test_candidates_take_turns_and_the_first_calls_do_not_count() -> None:
    calls: list[str] = []

    def timed(name: str) -> Any:
        def call() -> float:
            calls.append(name)
            return float(len(calls))

        return call

    samples = take_turns({name: timed(name) for name in "abc"}, rounds=3, warm_up=1)
    assert "".join(calls) == "abc" + "bca" + "cab" + "abc"
    assert samples == {"a": [6.0, 8.0, 10.0], "b": [4.0, 9.0, 11.0], "c": [5.0, 7.0, 12.0]}


def record(case: Case = TARGET, fused_ms: float = 0.08) -> dict[str, Any]:
    samples = {FUSED: [fused_ms, 9.0, fused_ms], "eager": [0.4, 0.2, 0.3]}
    return case_record(case, samples, {"index_agreement": 1.0}, dtype="fp16", bytes_per_second=1e12)


def test_record_keeps_samples_and_takes_medians() -> None:
    found = record()
    assert found["median_ms"] == {FUSED: 0.08, "eager": 0.3}
    assert found["samples_ms"]["eager"] == [0.4, 0.2, 0.3]
    least = router_traffic(
        image_tokens=1024, text_tokens=64, hidden=2048, rank=32, element_bytes=2
    ).least_bytes
    assert found["limit_ms"] == pytest.approx(least / 1e9)
    assert found["share_of_limit_percent"][FUSED] == pytest.approx(100 * least / 1e9 / 0.08)


@pytest.mark.parametrize(
    ("fused_ms", "prefill", "passed"),
    [(0.08, [9.0, 8.0, 10.0], [True, True]), (0.12, [9.0], [False, False])],
)
def test_checks_are_those_of_the_target_size(
    fused_ms: float, prefill: list[float], passed: list[bool]
) -> None:
    records = [record(CASES[0], 5.0), record(TARGET, fused_ms)]
    checks = list(checks_of(records, prefill))
    assert [check.passed for check in checks] == passed
    assert checks[1].value == pytest.approx(100 * fused_ms / 9.0)
    assert not list(checks_of(records[:1], prefill))


@pytest.mark.parametrize(("fused_ms", "code"), [(0.08, 0), (0.5, 1)])
def test_command_writes_every_sample_and_gates(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fused_ms: float,
    code: int,
) -> None:
    """With a stand-in for what needs a GPU; the figures around it are the command's own."""
    monkeypatch.setattr(fused_router, "why_no_gpu", lambda: None)
    monkeypatch.setattr(fused_candidates, "copy_bandwidth", lambda: [1e12, 2e12])
    monkeypatch.setattr(fused_candidates, "machine", lambda: {"gpu": "none"})
    monkeypatch.setattr(fused_candidates, "prefill_ms", lambda tokens, dtype: [float(tokens)])
    found = ({FUSED: lambda: fused_ms, "eager": lambda: 1.0}, {"index_agreement": 1.0})
    monkeypatch.setattr(fused_candidates, "candidates", lambda case, dtype, rank: found)
    output = tmp_path / "out" / "fused.json"
    arguments = ["-o", str(output), "--rounds", "4", "--target-only", "--dtype", "bf16"]
    assert fused_router.main(arguments) == code
    written = json.loads(output.read_text())
    assert written["cases"][0]["samples_ms"] == {FUSED: [fused_ms] * 4, "eager": [1.0] * 4}
    assert written["prefill_ms"] == [1088.0]
    assert [check["passed"] for check in written["checks"]] == [code == 0, True]
    printed = capsys.readouterr().out
    assert printed.startswith("N=1024 M=64 D=2048: limit 0.0055 ms; fused, CUDA graph")
    assert ("FAILED: fused router at" in printed) == (code == 1)


def test_rounds_below_one_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        fused_router.main(["-o", str(tmp_path / "x.json"), "--rounds", "0"])
    assert "must be at least 1, got '0'" in capsys.readouterr().err
