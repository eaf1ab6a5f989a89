from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import quantization
from benchmarks.quantization import CONFIGURATIONS, Result, main, table
from moir_edge.calibration.methods.registry import METHODS
from moir_edge.errors import DataError
from moir_edge.export.precisions import (
    calibrated_components,
    choose_int4_method,
    plan_precisions,
)

RESULT = Result(
    name="int4-rtn",
    tensor_bytes=2_200_000,
    recovery=0.9864,
    recovery_low=0.97,
    recovery_high=0.999,
    identical=0.975,
    leading=0.99,
    index_agreement=0.9906,
    matched_cosine=0.99784,
    output_db=23.45,
    min_recovery=98.0,
)


@pytest.mark.parametrize("one", CONFIGURATIONS, ids=lambda one: one.name)
def test_every_row_is_an_export_that_is_taken(one: quantization.Configuration) -> None:
    target = str(one.options.get("target", "cpu"))
    overrides = one.options.get("component_precision")
    components = ("vision", "embedding", "router", "decoder")
    plan = plan_precisions(components, target, one.precision, overrides)
    wanted = one.options.get("int4_method")
    method = choose_int4_method(plan, target, wanted, has_data=one.calibrated)
    calibrated_components(plan, has_data=one.calibrated, int4_method=method)


def test_every_method_has_its_rows_and_names_differ() -> None:
    on_cpu = [one for one in CONFIGURATIONS if "target" not in one.options]
    methods = [one.options["int4_method"] for one in on_cpu if one.precision == "int4"]
    assert {method: methods.count(method) for method in METHODS} == dict.fromkeys(METHODS, 2)
    assert len({one.name for one in CONFIGURATIONS}) == len(CONFIGURATIONS)


def test_table() -> None:
    bare = replace(RESULT, name="plain", index_agreement=None, matched_cosine=None, output_db=None)
    assert table([RESULT, bare]).splitlines()[2:] == [
        "| `int4-rtn` | 2.20 | 98.6 % (97.0–99.9) | 97.5 % | 99.06 % | 0.9978 | 23.4 |",
        "| `plain` | 2.20 | 98.6 % (97.0–99.9) | 97.5 % | – | – | – |",
    ]


def test_command_says_what_is_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missed = replace(RESULT, name="int4-awq", min_recovery=99.0)
    monkeypatch.setattr(quantization, "_measure", lambda _: [RESULT, missed])
    output = tmp_path / "deep" / "result.json"
    assert main(["-o", str(output)]) == 1
    assert [one["passed"] for one in json.loads(output.read_text())] == [True, False]
    assert capsys.readouterr().err == "FAILED: int4-awq: recovery under 99.0 %\n"

    def fail(_: Any) -> Any:
        raise DataError("no data")

    monkeypatch.setattr(quantization, "_measure", fail)
    assert main(["-o", str(output)]) == 2
    assert capsys.readouterr().err == "error: no data\n"


def test_an_unknown_row_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-o", str(tmp_path / "r.json"), "--only", "int4-gtpq"]) == 2
    assert "unknown row 'int4-gtpq': did you mean 'int4-gptq'" in capsys.readouterr().err
