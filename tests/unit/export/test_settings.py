"""What is asked of an export is one value, checked and planned when it is made."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from moir_edge.errors import BundleError, UnsupportedError
from moir_edge.export import ExportSettings, assemble, export_bundle
from moir_edge.export.settings import ExportOptions


def test_keywords_are_the_fields() -> None:
    names = {one.name for one in fields(ExportSettings)} - {"plan"}
    assert set(ExportOptions.__annotations__) == names


def test_what_cannot_be_met_is_refused_when_it_is_said() -> None:
    with pytest.raises(UnsupportedError, match="int8 needs calibration data"):
        ExportSettings(precision="int8")
    with pytest.raises(UnsupportedError, match=r"leave `settings\.int4_method` out"):
        ExportSettings(int4_method="rtn")
    with pytest.raises(UnsupportedError, match="unknown component 'text'"):
        ExportSettings(component_precision={"text": "fp32"})


def test_a_model_without_a_router_has_a_plan_without_one() -> None:
    settings = ExportSettings(precision="int4", component_precision={"vision": "fp32"})
    assert settings.plan.precisions["router"] == "fp32"
    plan = settings.plan_of(["vision", "embedding", "decoder"])
    assert list(plan.precisions) == ["vision", "embedding", "decoder"]
    assert (plan.fixed, plan.int4_method, plan.settings) == (("vision",), "rtn", settings)
    routed = ExportSettings(component_precision={"router": "fp32"})
    with pytest.raises(
        UnsupportedError, match="unknown component 'router': did you mean 'decoder'"
    ):
        routed.plan_of(["vision", "embedding", "decoder"])


def test_keywords_go_before_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from moir_edge.export import bundle

    seen: list[ExportSettings] = []

    def stop(traced: object, output: Path, settings: ExportSettings, **_: Any) -> Path:
        seen.append(settings)
        return output

    monkeypatch.setattr(bundle, "load_checkpoint", lambda *_, **__: None)
    monkeypatch.setattr(bundle, "trace_components", lambda *_, **__: None)
    monkeypatch.setattr(bundle, "assemble", stop)
    settings = ExportSettings(precision="int4", engines=False)
    export_bundle("any", tmp_path / "out", settings, target="jetson-orin-nano")
    assert seen == [ExportSettings(precision="int4", engines=False, target="jetson-orin-nano")]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(BundleError, match="exists"):
        export_bundle("any", tmp_path / "taken", settings)
    assert len(seen) == 1


def test_one_value_does_what_its_keywords_do(traced_models: Any, tmp_path: Path) -> None:
    traced = traced_models("smolvlm")
    settings = ExportSettings(precision="int8-weight-only")
    one = assemble(traced, tmp_path / "one", settings)
    two = assemble(traced, tmp_path / "two", precision="int8-weight-only")
    names = sorted(path.name for path in one.glob("*.onnx"))
    fused = ["decoder.fused.onnx", "vision.fused.onnx"]
    assert names == sorted([*fused, "decoder.onnx", "embedding.onnx", "vision.onnx"])
    for name in [*names, "decoder.data"]:
        assert (one / name).read_bytes() == (two / name).read_bytes()
