"""Sensitivity of a graph's layers, against graphs in which that layer alone is quantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from scipy.special import softmax
from scipy.stats import entropy

from moir_edge.calibration import (
    LayerOptions,
    LayerSensitivity,
    QuantizationSummary,
    observe,
    quantize,
    sensitivity,
)
from moir_edge.calibration.formats import FORMATS
from moir_edge.calibration.layers import quantize_layers
from moir_edge.calibration.mixed.graphs import measure_layers
from moir_edge.calibration.mixed.layers import LayerTable, ladder
from moir_edge.calibration.smoothing import smooth
from moir_edge.errors import DataError, UnsupportedError

MakeDecoder = Callable[..., onnx.ModelProto]
Feed = dict[str, np.ndarray]


@pytest.fixture
def feeds() -> list[Feed]:
    random = np.random.default_rng(5)
    return [{"inputs_embeds": random.standard_normal((3, 64)).astype(np.float32)} for _ in range(2)]


def _logits(model: onnx.ModelProto, feed: Feed) -> np.ndarray:
    if TensorProto.FLOAT4E2M1 in {tensor.data_type for tensor in model.graph.initializer}:
        return np.asarray(ReferenceEvaluator(model).run(None, feed)[0], np.float64)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    logits: np.ndarray = session.run(["logits"], feed)[0].astype(np.float64)
    return logits


def _divergence(model: onnx.ModelProto, other: onnx.ModelProto, feeds: list[Feed]) -> float:
    pairs = [(_logits(model, feed), _logits(other, feed)) for feed in feeds]
    return float(
        np.mean([entropy(softmax(p, axis=-1), softmax(q, axis=-1), axis=-1) for p, q in pairs])
    )


def _by_node(found: tuple[LayerSensitivity, ...]) -> dict[str, LayerSensitivity]:
    return {one.layer.uses[0].node: one for one in found}


@pytest.mark.parametrize("precision", FORMATS)
def test_a_layers_cost_is_that_of_a_graph_with_it_alone_quantized(
    make_decoder: MakeDecoder, feeds: list[Feed], precision: str
) -> None:
    model = make_decoder()
    observers = observe(model, feeds, gram=True)
    found = _by_node(sensitivity(model, feeds, precision, observers=observers))
    assert list(found) == ["up", "down", "odd", "back", "head"]
    for node, one in found.items():
        for cost in one.costs[:-1]:
            alone, _ = quantize(
                model,
                precision,
                observers=observers,
                options=LayerOptions(precisions={node: cost.precision, "*": "fp32"}),
            )
            expected = _divergence(model, alone, feeds)
            assert expected > 1e-6
            # Logits of a few units in float32, 1e-7 of them, against divergences from 5e-5 on.
            assert cost.kl == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("method", ["awq", "gptq", "hqq"])
def test_int4_methods_are_tried_as_they_quantize(feeds: list[Feed], method: str) -> None:
    """Among them AWQ, which takes scales out of the norm before a layer."""
    model = _normalised()
    inputs = [{"x": feed["inputs_embeds"] ** 3} for feed in feeds]
    observers = observe(model, inputs, gram=True)
    options = LayerOptions(int4_method=method)
    found = _by_node(sensitivity(model, inputs, "int4", observers=observers, options=options))
    alone, _ = quantize(
        model,
        "int4",
        observers=observers,
        options=LayerOptions(int4_method=method, precisions={"up": "int4", "*": "fp32"}),
    )
    assert found["up"].costs[0].kl == pytest.approx(_divergence(model, alone, inputs), rel=2e-3)


def test_precisions_and_bytes_are_those_of_the_quantized_graph(
    make_decoder: MakeDecoder, feeds: list[Feed]
) -> None:
    found = _by_node(sensitivity(make_decoder(), feeds, "int4"))
    assert found["up"].layer.precisions == ("int4", "int8-weight-only", "fp32")
    # (64, 128): half a byte each and a float32 scale for 32; a byte each and a scale per column; four bytes each.
    assert found["up"].layer.bytes == (4096 + 1024, 8192 + 512, 32768)
    assert found["back"].layer.precisions == ("int8-weight-only", "fp32")  # K = 40
    assert found["head"].layer.precisions == ("int8-weight-only", "fp32")
    assert found["up"].costs[-1].kl == 0.0


def test_ladders_follow_the_fall_backs() -> None:
    assert ladder("int4") == ("int4", "int8-weight-only", "fp32")
    assert ladder("int8") == ("int8", "int8-weight-only", "fp32")
    assert ladder("int8-weight-only") == ("int8-weight-only", "fp32")


def test_the_same_figures_twice_and_the_model_left_alone(
    make_decoder: MakeDecoder, feeds: list[Feed]
) -> None:
    model = make_decoder()
    before = model.SerializeToString()
    first = sensitivity(model, feeds, "int4")
    assert sensitivity(model, feeds, "int4") == first
    assert sensitivity(ir.from_proto(model), feeds, "int4") == first
    assert model.SerializeToString() == before


def test_a_weight_with_two_readers_is_one_layer() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32) / 8
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"], name="first"),
            helper.make_node("MatMul", ["y", "w"], ["z"], name="second"),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    feed = {"x": np.ones((1, 64), np.float32)}
    (found,) = sensitivity(model, [feed], "int4", output="z")
    assert found.layer.name == "graph: first + graph: second"
    assert found.layer.bytes[-1] == weight.nbytes


def test_a_method_that_edits_what_is_around_a_layer_is_tried_in_earnest() -> None:
    """Scales moved from an activation into the weight: the weight alone means nothing then."""
    model = _normalised()
    feeds: list[Feed] = [
        {"x": np.random.default_rng(2).standard_normal((5, 64)).astype(np.float32) ** 3}
    ]
    observers = observe(model, feeds)

    def migrating(
        component: str, graph: ir.Model, precisions: Mapping[str, str]
    ) -> QuantizationSummary:
        smooth(graph, observers, alpha=0.5)
        options = LayerOptions(precisions=precisions)
        return quantize_layers(graph, "int8-weight-only", options=options)

    float_graph = ir.from_proto(model)
    table = LayerTable({"graph": float_graph}, migrating)
    (up,) = [layer for layer in table.layers if layer.uses[0].node == "up"]
    assert table.weight(up.uses[0], "int8-weight-only") is None
    costs = _by_node(measure_layers(table, feeds, "logits"))
    for node in ("up", "head"):
        alone = float_graph.clone()
        others = {"up": "fp32", "head": "fp32", node: "int8-weight-only"}
        migrating("graph", alone, others)
        expected = _divergence(model, ir.to_proto(alone), feeds)
        # The migrated float graph differs from the model by rounding, about 1e-6 of logits of a few units.
        assert costs[node].costs[0].kl == pytest.approx(expected, rel=1e-2)


def _normalised() -> onnx.ModelProto:
    random = np.random.default_rng(1)
    weights = {
        "gain": np.exp(random.standard_normal(64)).astype(np.float32),
        "up.weight": random.standard_normal((64, 64)).astype(np.float32) / 8,
        "head.weight": random.standard_normal((64, 96)).astype(np.float32) / 4,
    }
    graph = helper.make_graph(
        [
            helper.make_node("LayerNormalization", ["x", "gain"], ["normed"], name="norm"),
            helper.make_node("MatMul", ["normed", "up.weight"], ["wide"], name="up"),
            helper.make_node("Tanh", ["wide"], ["active"], name="tanh"),
            helper.make_node("MatMul", ["active", "head.weight"], ["logits"], name="head"),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 96])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_mistakes_have_one_clear_line(make_decoder: MakeDecoder, feeds: list[Feed]) -> None:
    model: Any = make_decoder()
    with pytest.raises(UnsupportedError, match="int8 needs statistics: give observers=observe"):
        sensitivity(model, feeds, "int8")
    with pytest.raises(UnsupportedError, match="cannot quantize to 'int5': did you mean"):
        sensitivity(model, feeds, "int5")
    with pytest.raises(DataError, match="the graph has no output 'hidden'; it has logits"):
        sensitivity(model, feeds, "int4", output="hidden")
    with pytest.raises(DataError, match="no feed was given"):
        sensitivity(model, [], "int4")
