from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import acceptance
from benchmarks.acceptance import Check, checks_of, main
from moir_edge.bundle import (
    ComponentEntry,
    EngineEntry,
    FileEntry,
    Manifest,
    ModelFacts,
    SourceEntry,
)
from moir_edge.errors import DataError
from moir_edge.evaluation.comparison.schema import ComparisonReport


def _manifest(precision: Any) -> Manifest:
    facts = dict.fromkeys(ModelFacts.model_fields, 1) | {
        "model_type": "smolvlm",
        "eos_token_ids": (1,),
        "special_token_ids": (1,),
        "newline_token_ids": (),
        "image_grid": None,
    }
    part = ComponentEntry(
        graph="decoder.onnx", precision=precision, tensor_bytes=100, inputs=(), outputs=()
    )
    engine = EngineEntry(
        component="decoder",
        target="rtx-40",
        path="engines/decoder.engine",
        builder="tensorrt_rtx",
        builder_version="1",
        compute_capability="8.9",
        compute="fp16",
        build_seconds=1.0,
    )
    sizes = {"decoder.onnx": 2, "decoder.data": 100, engine.path: 999}
    return Manifest(
        created_with={},
        source=SourceEntry(name="x", sha256="0", architecture="x"),
        model=ModelFacts.model_validate(facts),
        target="cpu",
        precision=precision,
        router=None,
        router_sha256=None,
        components={"decoder": part},
        engines=(engine,),
        files=tuple(FileEntry(path=p, bytes=n, sha256="0") for p, n in sizes.items()),
    )


def test_every_figure_is_checked(report: ComparisonReport) -> None:
    parity = {"max_abs_error": {"vision": 9.0, "prefill logits": 1e-5, "decode logits": 2e-3}}
    manifests = [_manifest("fp32"), _manifest("int4")]
    checks = {c.name: c for c in checks_of(report, manifests, parity)}
    assert {name: check.passed for name, check in checks.items()} == {
        "plain: bytes over tensor bytes": True,
        "plain: vqa VQA accuracy": True,
        "plain: statement accuracy": True,
        "plain: caption CIDEr-D": True,
        "plain: identical greedy token sequences %": True,
        "plain: router indices found %": False,  # this candidate has no router: not measured
        "plain: logits, largest absolute error": False,  # 2e-3
        "small: bytes over tensor bytes": True,
        "small: recovery %": False,  # 91.67
    }
    assert checks["plain: bytes over tensor bytes"].value == 1.02  # engines left out
    assert checks["small: recovery %"].sentence() == (
        "FAILED: small: recovery %: 91.6667 (at least 98)"
    )
    assert (
        checks["plain: router indices found %"].sentence().endswith("not measured (at least 99.9)")
    )


def test_no_indices_are_asked_of_a_router_that_names_no_sources(report: ComparisonReport) -> None:
    routed = _manifest("fp32").model_copy(update={"router": {"version": 1, "kind": "gate"}})
    checks = checks_of(report, [routed, _manifest("int4")], {"max_abs_error": {}})
    assert not any("indices" in check.name for check in checks)


def test_command_writes_the_checks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [Check(name="a", value=1.0), Check(name="b", value=2.0, maximum=1.0)]
    monkeypatch.setattr(acceptance, "_measure", lambda *_: checks)
    output = tmp_path / "deep" / "acceptance.json"
    assert main(["-o", str(output)]) == 1
    assert [entry["passed"] for entry in json.loads(output.read_text())] == [True, False]
    assert "FAILED: b: 2 (at most 1)" in capsys.readouterr().out

    def fail(*_: Any) -> Any:
        raise DataError("no data")

    monkeypatch.setattr(acceptance, "_measure", fail)
    assert main(["-o", str(output)]) == 2
    assert capsys.readouterr().err == "error: no data\n"
