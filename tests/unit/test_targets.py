from __future__ import annotations

import subprocess
import sys

import pytest

from moir_edge.errors import UnsupportedError
from moir_edge.precisions import PRECISIONS
from moir_edge.targets import (
    TARGETS,
    available_precisions,
    check_precision,
    get_target,
    register_target,
    session_config,
)

# The project's published table, written out by hand.
TABLE = {
    "jetson-orin-nano": (87, "fp16 int8-weight-only int8 int4", "tensorrt"),
    "jetson-agx-orin": (87, "fp16 int8-weight-only int8 int4", "tensorrt"),
    "jetson-thor": (110, "fp16 int8-weight-only int8 fp8 int4 nvfp4", "tensorrt"),
    "rtx-20": (75, "fp16", "tensorrt_rtx"),
    "rtx-30": (86, "fp32 fp16 int8-weight-only int8 int4", "tensorrt_rtx"),
    "rtx-40": (89, "fp32 fp16 int8-weight-only int8 fp8 int4", "tensorrt_rtx"),
    "rtx-50": (120, "fp32 fp16 int8-weight-only int8 fp8 int4 nvfp4", "tensorrt_rtx"),
    "dgx-spark": (121, "fp32 fp16 int8-weight-only int8 fp8 int4 nvfp4", "tensorrt_rtx"),
    "cpu": (None, "fp32 fp16 bf16 int8-weight-only int8 int4", "onnxruntime"),
}


@pytest.mark.parametrize("name", TABLE)
def test_registry_is_the_published_table(name: str) -> None:
    target = get_target(name)
    assert (target.sm, " ".join(available_precisions(target)), target.builder) == TABLE[name]
    assert target.builds_ahead_of_time == (target.builder == "tensorrt_rtx")


def test_registry_holds_nothing_else() -> None:
    assert list(TARGETS) == list(TABLE)


def test_memory_and_compute_capability() -> None:
    assert get_target("jetson-orin-nano").memory_gb == 8
    assert get_target("jetson-thor").compute_capability == "11.0"
    assert get_target("rtx-30").compute_capability == "8.6"
    assert get_target("cpu").compute_capability is None


def test_a_duplicate_is_refused() -> None:
    with pytest.raises(ValueError, match="'cpu' is registered twice"):
        register_target(get_target("cpu"))


def test_unknown_target_names_the_closest() -> None:
    with pytest.raises(UnsupportedError, match="unknown target 'rtx40': did you mean 'rtx-40'"):
        get_target("rtx40")


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_is_taken_exactly_where_it_is_available(name: str, precision: str) -> None:
    if precision in available_precisions(get_target(name)):
        check_precision(name, precision)
        return
    with pytest.raises(UnsupportedError, match=precision) as error:
        check_precision(name, precision)
    # Every refusal offers something that the same check accepts.
    offered = str(error.value).rsplit("use ", 1)[1].replace(" or ", ", ").split(", ")
    for alternative in offered:
        check_precision(name, alternative)


def test_refusals_give_the_reason() -> None:
    with pytest.raises(UnsupportedError) as error:
        check_precision("rtx-30", "fp8")
    assert str(error.value) == (
        "rtx-30 does not run fp8: FP8 needs SM 89 or later; rtx-30 is SM 86; "
        "use int4, int8, int8-weight-only, fp16 or fp32"
    )
    with pytest.raises(UnsupportedError, match="NVFP4 needs SM 100 or later; rtx-40 is SM 89"):
        check_precision("rtx-40", "nvfp4")
    with pytest.raises(UnsupportedError, match="ONNX Runtime has no FP8 kernels for a CPU"):
        check_precision("cpu", "fp8")
    for gpu in ("jetson-orin-nano", "rtx-20", "dgx-spark"):
        with pytest.raises(
            UnsupportedError,
            match=f"^{gpu} does not run bf16: its engines multiply in fp16, which takes the same bytes and has more digits; use ",
        ):
            check_precision(gpu, "bf16")
    with pytest.raises(UnsupportedError, match="needs SM 80 or later; rtx-20 is SM 75"):
        check_precision("rtx-20", "int4")
    with pytest.raises(UnsupportedError, match="unknown precision 'int5': did you mean 'int8'"):
        check_precision("cpu", "int5")


def test_one_component_may_stay_in_fp32_anywhere() -> None:
    check_precision("jetson-orin-nano", "fp32", component="vision")
    with pytest.raises(UnsupportedError):
        check_precision("jetson-orin-nano", "fp32")


def test_a_gpu_without_fp32_products_takes_fp32_nowhere() -> None:
    assert get_target("rtx-20").router_precision == "fp16"
    others = [target for name, target in TARGETS.items() if name != "rtx-20"]
    assert {target.router_precision for target in others} == {"fp32"}
    for component in (None, "router"):
        with pytest.raises(UnsupportedError) as error:
            check_precision("rtx-20", "fp32", component=component)
        assert str(error.value) == (
            "rtx-20 does not run fp32: TensorRT-RTX compiles no matrix product in FP32 for this GPU; use fp16"
        )


def test_to_dict_is_json_ready() -> None:
    row = get_target("rtx-50").to_dict()
    assert row["name"] == "rtx-50"
    assert row["export_precisions"] == [name for name in PRECISIONS if name != "bf16"]


def test_session_config() -> None:
    assert session_config("decoder", "fp32", "1.31.1") == {}
    fused = session_config("decoder", "int4", "1.23.2")
    assert fused["session.qdq_matmulnbits_accuracy_level"] == "4"
    assert session_config("decoder", "int8-weight-only", "1.25.0") == fused
    folded = {"session.disable_quant_qdq": "1"}
    assert session_config("decoder", "int8-weight-only", "1.24.4") == folded
    assert session_config("embedding", "int4", "1.31.1") == folded
    static = session_config("decoder", "int8", "1.31.1")
    assert static == {"session.qdqisint8allowed": "1", **fused}
    assert session_config("embedding", "int8", "1.31.1") == folded
    assert session_config("decoder", "fp8", "1.31.1") == folded
    assert session_config("vision", "int8-weight-only", "1.31.1", exact=True) == folded
    assert session_config("decoder", "int8", "1.31.1", exact=True) == static
    assert session_config("decoder", "nvfp4", "1.31.1") == folded


def test_import_is_light() -> None:
    heavy = "{'torch', 'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'pydantic', 'transformers'}"
    code = f"import sys, moir_edge.targets; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
