from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from moir_edge.calibration import LayerOptions, QuantizationSummary, quantize
from moir_edge.errors import UnsupportedError
from moir_edge.targets import session_config

MakeDecoder = Callable[..., onnx.ModelProto]


def _inputs() -> dict[str, np.ndarray]:
    array = np.random.default_rng(11).standard_normal((3, 64)).astype(np.float32)
    return {"inputs_embeds": array}


def _precisions(summary: QuantizationSummary) -> dict[str, str]:
    return {weight.node: weight.precision for weight in summary.weights}


def _initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _floats_by_hand(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Dequantize every integer weight with plain loops, by the definition in the ONNX text."""
    tensors = _initializers(model)
    result = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        values = numpy_helper.to_array(tensors[node.input[0]]).astype(np.float64)
        scale = numpy_helper.to_array(tensors[node.input[1]]).astype(np.float64)
        attributes = {item.name: item.i for item in node.attribute}
        if "block_size" in attributes:
            assert attributes["axis"] == 0
            rows = [scale[i // attributes["block_size"]] for i in range(len(values))]
            result[node.output[0]] = np.stack(
                [row * s for row, s in zip(values, rows, strict=True)]
            )
        else:
            assert attributes["axis"] == 1
            result[node.output[0]] = np.stack(
                [column * s for column, s in zip(values.T, scale, strict=True)], axis=1
            )
    return result


def _run(model: onnx.ModelProto, inputs: dict[str, np.ndarray], optimize: bool) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    output: np.ndarray = session.run(None, inputs)[0]
    return output


def _decoder_by_hand(model: onnx.ModelProto, hidden: np.ndarray) -> np.ndarray:
    """Run the test decoder in float64 with the dequantized weights."""
    weights = {name: numpy_helper.to_array(t) for name, t in _initializers(model).items()}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            weights[node.name] = _floats_by_hand(model).get(
                node.input[1], weights.get(node.input[1])
            )
    active = np.tanh(hidden.astype(np.float64) @ weights["up"])
    back = active @ weights["down"] @ weights["odd"] @ weights["back"] + weights["back.bias"]
    logits: np.ndarray = (back @ weights["tiny"] @ weights["tiny_back"] @ weights["head"])[:, None]
    return logits


def test_int8_precisions_and_reasons(make_decoder: MakeDecoder) -> None:
    _, summary = quantize(make_decoder(), "int8-weight-only")
    assert _precisions(summary) == {
        "up": "int8-weight-only",
        "down": "int8-weight-only",
        "odd": "int8-weight-only",
        "back": "int8-weight-only",
        "tiny": "fp32",
        "tiny_back": "fp32",
        "head": "int8-weight-only",
    }
    assert {weight.reason for weight in summary.left_out} == {
        "256 weights are too few to gain from it"
    }


def test_int4_falls_back_per_weight_and_says_why(make_decoder: MakeDecoder) -> None:
    _, summary = quantize(make_decoder(), "int4")
    by_node = {weight.node: weight for weight in summary.weights}
    assert by_node["up"].precision == "int4"
    assert by_node["up"].reason == ""
    assert by_node["back"].precision == "int8-weight-only"
    assert by_node["back"].reason == "K = 40 is not a multiple of the block size 32"
    assert by_node["head"].precision == "int8-weight-only"
    assert "head" in by_node["head"].reason
    assert by_node["head"].shape == (64, 96)


@pytest.mark.parametrize("precision", ["int8-weight-only", "int4"])
def test_graph_computes_with_the_dequantized_weights(
    make_decoder: MakeDecoder, precision: str
) -> None:
    model, _ = quantize(make_decoder(), precision)
    onnx.checker.check_model(model, full_check=True)
    expected = _decoder_by_hand(model, _inputs()["inputs_embeds"])
    actual = _run(model, _inputs(), optimize=False)
    # Float32 sums of up to 128 terms against float64.
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    reference = ReferenceEvaluator(model).run(None, _inputs())[0]
    np.testing.assert_allclose(actual, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    # Relative to the float graph: about the weight's own relative error, twice it in the worst case here.
    ("precision", "tolerance"),
    [("int8-weight-only", 0.02), ("int4", 0.2)],
)
def test_result_stays_near_the_float_graph(
    make_decoder: MakeDecoder, precision: str, tolerance: float
) -> None:
    float_model = make_decoder()
    model, summary = quantize(float_model, precision)
    expected = _run(float_model, _inputs(), optimize=False)
    actual = _run(model, _inputs(), optimize=False)
    assert np.linalg.norm(actual - expected) < tolerance * np.linalg.norm(expected)
    assert 0 < summary.worst_relative_error < tolerance


@pytest.mark.parametrize("precision", ["int8-weight-only", "int4"])
def test_onnx_runtime_fuses_every_weight(
    make_decoder: MakeDecoder, precision: str, tmp_path: Path
) -> None:
    model, summary = quantize(make_decoder(), precision)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that the optimized file is for this machine
    for key, value in session_config("decoder", precision, onnxruntime.__version__).items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    fused = session.run(None, _inputs())[0]
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert operators["MatMulNBits"] == len(summary.quantized)
    assert operators["DequantizeLinear"] == 0
    plain = _run(model, _inputs(), optimize=False)
    # The fused kernel rounds activations to 8 bits, per block of rows.
    assert np.linalg.norm(fused - plain) < 0.03 * np.linalg.norm(plain)


def test_embedding_gathers_dequantized_rows(
    embedding_model: onnx.ModelProto, table: np.ndarray
) -> None:
    model, summary = quantize(embedding_model, "int8-weight-only")
    onnx.checker.check_model(model, full_check=True)
    ids = np.array([[0, 5, 95], [7, 7, 1]])
    actual = _run(model, {"input_ids": ids}, optimize=False)
    (dequantized,) = _floats_by_hand(model).values()
    # One float32 product each.
    np.testing.assert_allclose(actual, dequantized.T[ids], rtol=1e-6)
    # Half a step of a row: its largest magnitude over 127, at most.
    step = np.abs(table).max(axis=1)[ids][..., None] / 127
    assert (np.abs(actual - table[ids]) <= 0.75 * step).all()
    assert summary.weights[0].shape == (64, 96)
    assert [output.name for output in model.graph.output] == ["inputs_embeds"]


@pytest.mark.parametrize("precision", ["int8-weight-only", "int4"])
def test_tied_table_has_the_same_name_and_bytes_in_both_graphs(
    embedding_model: onnx.ModelProto, make_decoder: MakeDecoder, precision: str
) -> None:
    embedding, _ = quantize(embedding_model, precision)
    decoder, _ = quantize(make_decoder(), precision)
    for name in ("embed_int8", "embed_scale"):
        ours, theirs = _initializers(embedding)[name], _initializers(decoder)[name]
        assert ours.SerializeToString() == theirs.SerializeToString()
    assert "embed" not in _initializers(embedding)
    assert "embed" not in _initializers(decoder)


def test_int4_is_packed_two_to_a_byte(make_decoder: MakeDecoder) -> None:
    tensor = _initializers(quantize(make_decoder(), "int4")[0])["up.weight_int4"]
    assert tensor.data_type == TensorProto.INT4
    assert len(tensor.raw_data) == 64 * 128 // 2


def test_a_shared_weight_is_stored_once_and_dequantized_per_use() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
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
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model, _ = quantize(source, "int4")
    assert set(_initializers(model)) == {"w_int4", "w_scale"}
    assert [node.op_type for node in model.graph.node].count("DequantizeLinear") == 2


def test_excluded_names_and_patterns_stay_float(make_decoder: MakeDecoder) -> None:
    _, summary = quantize(
        make_decoder(), "int4", options=LayerOptions(exclude=("up", "*ck.weight"))
    )
    assert _precisions(summary)["up"] == "fp32"
    assert _precisions(summary)["back"] == "fp32"
    assert {w.reason for w in summary.weights if w.node == "up"} == {"excluded by the caller"}


def test_what_cannot_be_quantized_is_listed_with_the_reason() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.standard_normal((16, 3, 8, 8)).astype(np.float32),
        "left": rng.standard_normal((5, 16)).astype(np.float32),
        "stack": rng.standard_normal((1, 16, 32)).astype(np.float32),
        "shape": np.array([1, 16, 16], np.int64),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel"], ["c"], name="conv", strides=[8, 8]),
            helper.make_node("Reshape", ["c", "shape"], ["r"], name="reshape"),
            helper.make_node("MatMul", ["left", "r"], ["l"], name="left_mm"),
            helper.make_node("MatMul", ["l", "stack"], ["y"], name="stack_mm"),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5, 32])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model, summary = quantize(source, "int8-weight-only")
    assert {weight.node: weight.reason for weight in summary.left_out} == {
        "conv": "no runtime fuses a weight-only convolution",
        "left_mm": "the weight is the left operand",
        "stack_mm": "a weight of rank 3 is not a (K, N) matrix",
    }
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in graph.node]


def test_the_source_is_left_alone(make_decoder: MakeDecoder) -> None:
    proto = make_decoder()
    before = proto.SerializeToString()
    quantize(proto, "int8-weight-only")
    assert proto.SerializeToString() == before
    model = ir.from_proto(proto)
    copy, _ = quantize(model, "int8-weight-only")
    assert "up.weight" in model.graph.initializers
    assert "up.weight" not in copy.graph.initializers


def test_interface_is_unchanged(make_decoder: MakeDecoder) -> None:
    source = make_decoder()
    model, _ = quantize(source, "int4")
    assert model.graph.input == source.graph.input
    assert model.graph.output == source.graph.output


def test_summary_as_json_types(make_decoder: MakeDecoder) -> None:
    _, summary = quantize(make_decoder(), "int4", options=LayerOptions(block_size=16))
    record = summary.to_dict()
    assert (record["precision"], record["block_size"]) == ("int4", 16)
    assert record["quantized"] + record["left_out"] == len(record["weights"]) == 7


def test_bad_requests_are_refused(make_decoder: MakeDecoder) -> None:
    model = ir.from_proto(make_decoder())
    with pytest.raises(
        UnsupportedError, match=re.escape("cannot quantize to 'int5': did you mean 'int8'")
    ):
        quantize(model, "int5")
    with pytest.raises(UnsupportedError, match="the graph has opset 20"):
        quantize(make_decoder(opset=20), "int4")


def test_a_layer_can_have_its_own_precision(make_decoder: MakeDecoder) -> None:
    chosen = LayerOptions(precisions={"up": "fp32", "d*n": "int8-weight-only", "head": "int4"})
    _, summary = quantize(make_decoder(), "int4", options=chosen)
    precisions = _precisions(summary)
    assert (precisions["up"], precisions["down"]) == ("fp32", "int8-weight-only")
    assert (precisions["odd"], precisions["head"]) == ("int4", "int4")
    assert {weight.reason for weight in summary.weights if weight.node in ("up", "head")} == {
        "chosen by name"
    }


def test_an_unknown_precision_of_a_layer_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="cannot quantize to 'int3': did you mean 'int"):
        LayerOptions(precisions={"up": "int3"})
