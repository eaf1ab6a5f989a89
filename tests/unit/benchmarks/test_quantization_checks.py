"""Bounds of a release on the demo's bundles."""

from __future__ import annotations

from typing import Any

from benchmarks.quantization_checks import recovery_check, reference_checks, size_check
from moir_edge.bundle import (
    ComponentEntry,
    EngineEntry,
    FileEntry,
    Manifest,
    ModelFacts,
    SourceEntry,
)
from moir_edge.evaluation.comparison.schema import ComparisonReport


def _manifest(precision: Any) -> Manifest:
    facts = dict.fromkeys(ModelFacts.model_fields, 1) | {
        "model_type": "smolvlm",
        "eos_token_ids": (1,),
        "special_token_ids": (1,),
        "newline_token_ids": (),
        "image_grid": None,
        "family": {},
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


def test_every_figure_of_the_reference_is_checked(report: ComparisonReport) -> None:
    parity = {"max_abs_error": {"vision": 9.0, "prefill logits": 1e-5, "decode logits": 2e-3}}
    reference, plain, small = report.candidates
    checks = {one.name: one for one in reference_checks(plain, small, _manifest("fp32"), parity)}
    assert {name: check.passed for name, check in checks.items()} == {
        "plain: vqa VQA accuracy": True,
        "plain: statement accuracy": True,
        "plain: caption CIDEr-D": True,
        "plain: identical greedy token sequences %": False,
        "plain: logits, largest absolute error": False,  # 2e-3
        "plain: router indices found %": True,
    }
    lost = reference_checks(plain, plain, _manifest("fp32"), {})
    sentences = {one.name: one.sentence() for one in lost}
    assert sentences["plain: router indices found %"].endswith("not measured (at least 99.9)")
    assert sentences["plain: logits, largest absolute error"].endswith(
        "not measured (at most 0.001)"
    )
    assert recovery_check(small, 98.0).sentence() == (
        "FAILED: small: recovery %: 91.6667 (at least 98)"
    )
    assert not recovery_check(reference, None).passed  # it has none


def test_no_indices_are_asked_of_a_router_that_names_no_sources(report: ComparisonReport) -> None:
    routed = _manifest("fp32").model_copy(update={"router": {"version": 1, "kind": "gate"}})
    _, plain, small = report.candidates
    checks = reference_checks(plain, small, routed, {})
    assert not any("indices" in check.name for check in checks)


def test_size_leaves_engines_out() -> None:
    check = size_check("plain", _manifest("fp32"))
    assert (check.value, check.passed) == (1.02, True)
