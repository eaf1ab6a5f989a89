"""The table of precisions and methods: its rows, its text, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import quantization
from benchmarks.common import Check, Result
from benchmarks.quantization import main, table
from benchmarks.quantization_candidates import ACCEPTANCE, CANDIDATES, FP32, Candidate, chosen
from moir_edge.calibration.methods.registry import METHODS
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.export.precisions import (
    calibrated_components,
    choose_int4_method,
    plan_precisions,
)

RECORD = {
    "name": "int4-rtn",
    "tensor_bytes": 2_200_000,
    "output_db": 23.45,
    "recovery": {"value": 0.9864, "low": 0.97, "high": 0.999},
    "token_agreement": {"rows": 9, "identical": 0.975, "leading": 0.99},
    "routing": {"index_agreement": 0.9906, "matched_cosine": 0.99784},
}


@pytest.mark.parametrize("one", CANDIDATES, ids=lambda one: one.name)
def test_every_row_is_an_export_that_is_taken(one: Candidate) -> None:
    target = str(one.options.get("target", "cpu"))
    overrides = one.options.get("component_precision")
    components = ("vision", "embedding", "router", "decoder")
    plan = plan_precisions(components, target, one.options["precision"], overrides)
    method = choose_int4_method(plan, target, one.int4_method, has_data=one.calibrated)
    calibrated_components(plan, has_data=one.calibrated, int4_method=method)


def test_every_method_has_its_rows_and_names_differ() -> None:
    on_cpu = [one for one in CANDIDATES if "target" not in one.options]
    methods = [one.int4_method for one in on_cpu if one.options["precision"] == "int4"]
    assert {method: methods.count(method) for method in METHODS} == dict.fromkeys(METHODS, 4)
    assert len({one.name for one in CANDIDATES}) == len(CANDIDATES)


def test_rows_are_chosen_by_name() -> None:
    every, with_torch = chosen(None)
    assert (every, with_torch) == (CANDIDATES, True)
    rows, with_torch = chosen(ACCEPTANCE)
    assert [one.name for one in rows] == ["int8-weight-only", "int4-rtn"]
    assert with_torch
    assert chosen(["fp8"])[1] is False
    with pytest.raises(UnsupportedError, match="unknown row 'int4-gtpq': did you mean 'int4-gptq'"):
        chosen([FP32, "int4-gtpq"])


def test_table() -> None:
    bare = RECORD | {"name": "plain", "routing": None, "output_db": None}
    assert table([RECORD, bare]).splitlines()[2:] == [
        "| `int4-rtn` | 2.20 | 98.6 % (97.0–99.9) | 97.5 % | 99.06 % | 0.9978 | 23.4 |",
        "| `plain` | 2.20 | 98.6 % (97.0–99.9) | 97.5 % | – | – | – |",
    ]


def test_command_says_what_is_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [Check(name="a", value=1.0), Check(name="b", value=2.0, maximum=1.0)]
    record = {"checks": [check.record() for check in checks]}
    monkeypatch.setattr(
        quantization, "measure", lambda *_: Result(text="table", record=record, checks=checks)
    )
    output = tmp_path / "deep" / "result.json"
    assert main(["-o", str(output)]) == 1
    assert [one["passed"] for one in json.loads(output.read_text())["checks"]] == [True, False]
    assert capsys.readouterr().out.splitlines() == [
        "table",
        "passed: a: 1",
        "FAILED: b: 2 (at most 1)",
    ]

    def fail(*_: Any) -> Any:
        raise DataError("no data")

    monkeypatch.setattr(quantization, "measure", fail)
    assert main(["-o", str(output)]) == 2
    assert capsys.readouterr().err == "error: no data\n"


def test_an_unknown_row_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-o", str(tmp_path / "r.json"), "--only", "int4-gtpq", "-q"]) == 2
    assert "unknown row 'int4-gtpq': did you mean 'int4-gptq'" in capsys.readouterr().err
