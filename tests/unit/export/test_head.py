"""The head in a precision of its own: its bits, the kernel that ONNX Runtime makes of it, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import moir_edge
from moir_edge.calibration.patterns import find_head
from moir_edge.cli.main import main
from moir_edge.errors import UnsupportedError
from moir_edge.export import ExportSettings, TracedModel, assemble
from moir_edge.precisions import INT4, INT8_WEIGHT_ONLY
from moir_edge.runtime.providers import _session_options

# Tied: a Gemm that reads the table's rows. Untied: a MatMul.
FAMILIES = ("smolvlm", "llava")


def head_entry(bundle: Path) -> dict[str, Any]:
    """Return what the report says of the head: the decoder's last product."""
    weights = json.loads((bundle / "reports" / "quantization.json").read_text())["decoder"]
    entry: dict[str, Any] = weights["weights"][-1]
    assert "lm_head" in entry["node"]
    return entry


def kernels(graph: Path, folder: Path) -> Counter[str]:
    """Return how many nodes of each operator ONNX Runtime runs for a decoder, as the runtime opens it."""
    options = _session_options(1, "decoder", INT4, exact=False)
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    model = onnx.load(folder / "optimized.onnx", load_external_data=False)
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_in_4_bits_is_one_fused_kernel(
    family: str, traced_models: Callable[[str], TracedModel], tmp_path: Path
) -> None:
    traced = traced_models(family)
    plain = assemble(traced, tmp_path / "plain", precision=INT4)
    narrow = assemble(
        traced, tmp_path / "narrow", precision=INT4, component_precision={"head": INT4}
    )
    assert head_entry(plain)["precision"] == INT8_WEIGHT_ONLY
    assert (head_entry(narrow)["precision"], head_entry(narrow)["reason"]) == (
        INT4,
        "chosen by name",
    )
    # The form that every tool reads, and the one that ONNX Runtime runs.
    for name in ("decoder.onnx", "decoder.fused.onnx"):
        found = [kernels(bundle / name, tmp_path) for bundle in (plain, narrow)]
        assert found[0]["MatMulNBits"] == found[1]["MatMulNBits"] > 2
        assert not found[1]["DequantizeLinear"] + found[1]["Gemm"]
    for bundle in (plain, narrow):
        assert moir_edge.load(bundle).generate("What is it?", max_new_tokens=3).token_ids[0]
    # The table of the embedding stays in 8 bits.
    tables = [open_table(bundle) for bundle in (plain, narrow)]
    assert tables[0] == tables[1]


def open_table(bundle: Path) -> bytes:
    graph = onnx.load(bundle / "embedding.onnx").graph
    return b"".join(tensor.raw_data for tensor in graph.initializer)


def test_a_head_stays_float_where_that_is_asked_for(
    traced_models: Callable[[str], TracedModel], tmp_path: Path
) -> None:
    bundle = assemble(
        traced_models("llava"),
        tmp_path / "float",
        precision=INT4,
        component_precision={"head": "fp32"},
    )
    assert head_entry(bundle)["precision"] == "fp32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"precision": INT4, "component_precision": {"head": "int8"}},
            "the head is fp32, int8-weight-only or int4, not int8: only its weight is made narrow",
        ),
        (
            {"component_precision": {"head": INT4}},
            "the head has a precision of its own in a quantized decoder only, and this one is fp32; leave "
            "`settings.component_precision={'head': 'int4'}` out, or quantize the decoder",
        ),
        (
            {"precision": INT4, "component_precision": {"heads": INT4}},
            "unknown component 'heads': did you mean 'head'?",
        ),
        ({"precision": INT4, "component_precision": {"head": "int5"}}, "unknown precision 'int5'"),
        (
            {"precision": INT4, "component_precision": {"head": "fp8"}},
            "cpu does not run fp8: ONNX Runtime has no FP8 kernels for a CPU",
        ),
    ],
)
def test_what_a_head_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        ExportSettings(**options)
    assert message in str(caught.value)


def test_the_command_line_takes_the_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "nowhere", "-o", str(tmp_path / "b"), "--component-precision"]
    assert main([*words, "head=int4"]) == 2
    assert (
        "leave --component-precision head=int4 out, or quantize the decoder"
        in capsys.readouterr().err
    )


def test_a_search_may_raise_the_head_and_no_component_that_was_named() -> None:
    settings = ExportSettings(precision=INT4, component_precision={"head": INT4, "vision": "fp32"})
    assert settings.plan.head == INT4
    assert settings.plan.fixed == ("vision",)
    assert settings.plan_of(["vision", "embedding", "decoder"]).head == INT4


@pytest.mark.parametrize("after", [(), ("Mul",), ("Div", "Tanh", "Mul")])
def test_a_scale_or_a_soft_cap_of_the_logits_does_not_hide_the_head(after: tuple[str, ...]) -> None:
    names = ["product", *(f"after{n}" for n in range(len(after)))]
    nodes = [helper.make_node("MatMul", ["x", "weight"], [names[0]], name="lm_head")]
    for op, source, output in zip(after, names, names[1:], strict=False):
        others = [] if op == "Tanh" else ["factor"]
        nodes.append(helper.make_node(op, [source, *others], [output]))
    nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 64])],
        [
            numpy_helper.from_array(np.ones((32, 64), np.float32), "weight"),
            numpy_helper.from_array(np.float32(2), "factor"),
        ],
    )
    assert find_head(ir.from_proto(helper.make_model(graph)).graph) == "lm_head"
