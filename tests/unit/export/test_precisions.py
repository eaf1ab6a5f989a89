"""Which component gets which precision, and what is refused."""

from __future__ import annotations

import pytest

from moir_edge.errors import ShapeError, UnsupportedError
from moir_edge.export.precisions import (
    calibrated_components,
    choose_int4_block_size,
    choose_int4_method,
    plan_precisions,
)

COMPONENTS = ("vision", "embedding", "router", "decoder")


def test_fp32_is_fp32_everywhere() -> None:
    assert set(plan_precisions(COMPONENTS, "cpu", "fp32").values()) == {"fp32"}


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-weight-only", "int4", "fp8", "nvfp4"])
def test_router_stays_in_fp32(precision: str) -> None:
    plan = plan_precisions(COMPONENTS, "rtx-50", precision)
    assert plan["router"] == "fp32"
    assert plan["decoder"] == precision


def test_int4_leaves_vision_and_table_in_int8() -> None:
    plan = plan_precisions(COMPONENTS, "cpu", "int4")
    assert plan["vision"] == plan["embedding"] == "int8-weight-only"


@pytest.mark.parametrize(("precision", "target"), [("int8", "cpu"), ("fp8", "rtx-40")])
def test_8_bits_leave_vision_and_table_by_weight_alone(precision: str, target: str) -> None:
    plan = plan_precisions(COMPONENTS, target, precision)
    assert plan["embedding"] == plan["vision"] == "int8-weight-only"
    assert calibrated_components(plan, has_data=True) == ("vision", "decoder")


def test_calibration_data_are_needed_or_of_no_use() -> None:
    plan = plan_precisions(COMPONENTS, "cpu", "int4", {"vision": "int8"})
    with pytest.raises(
        UnsupportedError, match=r"int8 needs calibration data; give `calibration\.data=FILE`"
    ):
        calibrated_components(plan, has_data=False)
    with pytest.raises(
        UnsupportedError, match=r"fp8 needs calibration data; give `calibration\.data=FILE`"
    ):
        calibrated_components(plan_precisions(COMPONENTS, "rtx-40", "fp8"), has_data=False)
    floats = plan_precisions(COMPONENTS, "rtx-40", "fp16")
    with pytest.raises(UnsupportedError, match="this export quantizes no component; leave"):
        calibrated_components(floats, has_data=True)


def test_data_serve_weights_in_8_bits_where_there_are_some() -> None:
    plan = plan_precisions(COMPONENTS, "cpu", "int8-weight-only")
    assert calibrated_components(plan, has_data=False) == ()
    assert calibrated_components(plan, has_data=True) == ("vision", "decoder")


def test_int4_by_data_needs_them() -> None:
    plan = plan_precisions(COMPONENTS, "cpu", "int4")
    for method in ("awq", "gptq"):
        found = calibrated_components(plan, has_data=True, int4_method=method)
        assert found == ("vision", "decoder")
        with pytest.raises(UnsupportedError, match=f"int4 by {method} needs calibration data.*rtn"):
            calibrated_components(plan, has_data=False, int4_method=method)
    for method in ("rtn", "hqq"):
        assert calibrated_components(plan, has_data=False, int4_method=method) == ()
        assert calibrated_components(plan, has_data=True, int4_method=method) == ("vision",)


def test_int4_method_is_the_best_with_the_data_at_hand() -> None:
    plan = plan_precisions(COMPONENTS, "cpu", "int4")
    assert choose_int4_method(plan, "cpu", None, has_data=False) == "rtn"
    assert choose_int4_method(plan, "cpu", None, has_data=True) == "gptq"
    assert choose_int4_method(plan, "cpu", "hqq", has_data=False) == "hqq"


def test_int4_methods_that_are_refused() -> None:
    plan = plan_precisions(COMPONENTS, "rtx-40", "int4")
    with pytest.raises(UnsupportedError, match="unknown int4 method 'awk': did you mean 'awq'"):
        choose_int4_method(plan, "rtx-40", "awk", has_data=False)
    with pytest.raises(
        UnsupportedError, match="TensorRT does not read; for rtx-40 take rtn, awq, gptq"
    ):
        choose_int4_method(plan, "rtx-40", "hqq", has_data=False)
    floats = plan_precisions(COMPONENTS, "cpu", "fp32")
    with pytest.raises(UnsupportedError, match="no component of this export is int4"):
        choose_int4_method(floats, "cpu", "rtn", has_data=False)


def test_int4_block_size_is_32_unless_one_is_given() -> None:
    plan = plan_precisions(COMPONENTS, "cpu", "int4")
    assert choose_int4_block_size(plan, None) == 32
    assert choose_int4_block_size(plan, 128) == 128
    with pytest.raises(ShapeError, match="int4_block_size` is 24; expected 16, 32, 64, 128 or 256"):
        choose_int4_block_size(plan, 24)
    with pytest.raises(UnsupportedError, match="int4_block_size=64` given, and no component"):
        choose_int4_block_size(plan_precisions(COMPONENTS, "cpu", "fp32"), 64)


def test_override_wins() -> None:
    plan = plan_precisions(COMPONENTS, "cpu", "int4", {"vision": "fp32"})
    assert plan["vision"] == "fp32"


@pytest.mark.parametrize(
    ("target", "precision", "override", "message"),
    [
        ("rtx40", "fp32", {}, "did you mean 'rtx-40'"),
        ("cpu", "int3", {}, "did you mean 'int"),
        ("cpu", "fp8", {}, "cpu does not run fp8: ONNX Runtime has no FP8 kernels for a CPU"),
        ("jetson-agx-orin", "fp8", {}, "FP8 needs SM 89 or later; jetson-agx-orin is SM 87"),
        ("rtx-40", "fp8", {"decoder": "nvfp4"}, "NVFP4 needs SM 100 or later"),
        (
            "rtx-40",
            "int4",
            {"router": "int4"},
            "router stays in floating point.*takes fp32, or fp16 on a GPU, not int4",
        ),
        ("cpu", "int4", {"decodr": "fp32"}, "did you mean 'decoder'"),
        ("cpu", "fp32", {"vision": "fp8"}, "fp8"),
    ],
)
def test_refusals(target: str, precision: str, override: dict[str, str], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        plan_precisions(COMPONENTS, target, precision, override)


def test_components_that_the_bundle_lacks_are_not_planned() -> None:
    assert "router" not in plan_precisions(("vision", "decoder"), "cpu", "int4")


def test_router_takes_fp16_on_a_gpu_if_asked() -> None:
    plan = plan_precisions(COMPONENTS, "rtx-40", "int4", {"router": "fp16"})
    assert (plan["router"], plan["decoder"]) == ("fp16", "int4")
    with pytest.raises(UnsupportedError, match="it takes fp32, or fp16 on a GPU, not fp16"):
        plan_precisions(COMPONENTS, "cpu", "int4", {"router": "fp16"})
