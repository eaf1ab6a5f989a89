from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from moir_edge.calibration import quantize
from moir_edge.errors import UnsupportedError
from moir_edge.graphs.half import HALF_OPERATORS, WIDE_OPERATORS, to_half

HIDDEN = 64


def _random(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _layer() -> onnx.ModelProto:
    """A pre-norm attention step with a mask, a cache output and a residual, (batch, sequence, hidden)."""
    node = helper.make_node
    nodes = [
        node("Pow", ["x", "two"], ["square"], name="pow"),
        node("ReduceMean", ["square", "last"], ["mean"], name="mean"),
        node("Add", ["mean", "eps"], ["shifted"], name="add_eps"),
        node("Sqrt", ["shifted"], ["root"], name="sqrt"),
        node("Div", ["x", "root"], ["unit"], name="div"),
        node("Mul", ["unit", "norm"], ["normed"], name="scale_norm"),
        node("MatMul", ["normed", "wq"], ["q"], name="q"),
        node("MatMul", ["normed", "wk"], ["k"], name="k"),
        node("Concat", ["past", "k"], ["present"], name="concat", axis=1),
        node("Transpose", ["present"], ["kt"], name="transpose", perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"], name="scores"),
        node("Mul", ["scores", "factor"], ["scaled"], name="scale_scores"),
        node("Where", ["allowed", "scaled", "lowest"], ["masked"], name="mask"),
        node("Softmax", ["masked"], ["weights"], name="softmax", axis=-1),
        node("MatMul", ["weights", "present"], ["mixed"], name="mix"),
        node("MatMul", ["mixed", "wo"], ["out"], name="o"),
        node("Add", ["x", "out"], ["y"], name="residual"),
    ]
    hidden = ["batch", "sequence", HIDDEN]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, hidden),
        helper.make_tensor_value_info("past", TensorProto.FLOAT, ["batch", "past", HIDDEN]),
        helper.make_tensor_value_info("allowed", TensorProto.BOOL, ["batch", "sequence", "total"]),
    ]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, hidden),
        helper.make_tensor_value_info("present", TensorProto.FLOAT, ["batch", "total", HIDDEN]),
    ]
    weights = {
        "two": np.array(2, np.float32),
        "last": np.array([-1], np.int64),
        "eps": np.array(1e-6, np.float32),
        "norm": 1 + _random(HIDDEN, seed=1) / 10,
        "factor": np.array(HIDDEN**-0.5, np.float32),
        "lowest": np.array(np.finfo(np.float32).min, np.float32),
    } | {
        name: _random(HIDDEN, HIDDEN, seed=seed) / 8 for seed, name in enumerate(["wq", "wk", "wo"])
    }
    graph = helper.make_graph(
        nodes,
        "layer",
        inputs,
        outputs,
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def _inputs(scale: float = 1.0) -> dict[str, np.ndarray]:
    allowed = np.tril(np.ones((2, 5, 8), bool), k=3)
    return {
        "x": _random(2, 5, HIDDEN, seed=5) * np.float32(scale),
        "past": _random(2, 3, HIDDEN, seed=6),
        "allowed": allowed,
    }


def _run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    outputs: list[np.ndarray] = session.run(None, inputs)
    return outputs


def _half(model: onnx.ModelProto, **options: tuple[str, ...]) -> onnx.ModelProto:
    converted = ir.from_proto(model)
    to_half(converted, **options)
    proto = ir.to_proto(converted)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of each value, inferred afresh by ONNX."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}


def test_interface_keeps_names_and_types() -> None:
    source, model = _layer(), _half(_layer())
    for ours, theirs in (
        (model.graph.input, source.graph.input),
        (model.graph.output, source.graph.output),
    ):
        assert [(v.name, v.type) for v in ours] == [(v.name, v.type) for v in theirs]


def test_products_are_half_and_norm_and_softmax_are_float() -> None:
    model = _half(_layer())
    types = _types(model)
    for node in model.graph.node:
        floats = {types[name] for name in node.input if types[name] in (1, 10)}
        if node.op_type in HALF_OPERATORS:
            assert floats == {TensorProto.FLOAT16}, node.name
        elif node.op_type in WIDE_OPERATORS or node.name in ("add_eps", "div", "scale_norm"):
            assert floats == {TensorProto.FLOAT}, node.name
        elif node.op_type != "Cast":
            assert len(floats) <= 1, node.name


def test_weights_of_products_are_stored_in_half_only() -> None:
    stored = {tensor.name: tensor.data_type for tensor in _half(_layer()).graph.initializer}
    assert {stored[f"{name}_half"] for name in ("wq", "wk", "wo")} == {TensorProto.FLOAT16}
    assert not {"wq", "wk", "wo"} & set(stored)
    assert stored["norm"] == TensorProto.FLOAT


def test_mask_constant_is_clamped_to_the_half_range() -> None:
    stored = {tensor.name: tensor for tensor in _half(_layer()).graph.initializer}
    assert numpy_helper.to_array(stored["lowest_half"]) == np.float16(-65504)


def test_result_is_near_the_float_graph() -> None:
    for half, single in zip(
        _run(_half(_layer()), _inputs()), _run(_layer(), _inputs()), strict=True
    ):
        # Float16 has 11 bits: 5e-4 per product, a few of them in a row.
        np.testing.assert_allclose(half, single, rtol=5e-3, atol=5e-3)


def test_large_activations_survive_the_norm() -> None:
    inputs = _inputs(scale=1000.0)  # squares of a million: far past float16's 65,504
    half, _ = _run(_half(_layer()), inputs)
    single, _ = _run(_layer(), inputs)
    assert np.isfinite(half).all()
    # The residual dominates; it stays in float32.
    np.testing.assert_allclose(half, single, rtol=1e-3, atol=5e-2)


def test_the_cache_is_not_rounded() -> None:
    inputs = _inputs()
    _, present = _run(_half(_layer()), inputs)
    assert np.array_equal(present[:, :3], inputs["past"])


def test_named_nodes_stay_in_float() -> None:
    model = _half(_layer(), keep_fp32=("q", "m*x"))
    types = _types(model)
    by_name = {node.name: node for node in model.graph.node}
    assert types[by_name["q"].input[1]] == TensorProto.FLOAT
    assert types[by_name["mix"].input[0]] == TensorProto.FLOAT
    assert types[by_name["k"].input[1]] == TensorProto.FLOAT16


def test_a_clone_is_converted_and_the_original_is_not() -> None:
    original = ir.from_proto(_layer())
    before = ir.to_proto(original).SerializeToString()
    to_half(original.clone())
    assert ir.to_proto(original).SerializeToString() == before


def test_quantized_weights_dequantize_to_half() -> None:
    model, _ = quantize(ir.from_proto(_layer()), "int8-weight-only")
    to_half(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    types = _types(proto)
    scales = [n.input[1] for n in proto.graph.node if n.op_type == "DequantizeLinear"]
    assert len(scales) == 3
    assert {types[name] for name in scales} == {TensorProto.FLOAT16}
    half, _ = _run(proto, _inputs())
    single, _ = _run(_layer(), _inputs())
    # Eight-bit weights: about 1 % of the product.
    assert np.linalg.norm(half - single) < 0.02 * np.linalg.norm(single)


def test_a_table_is_stored_in_half() -> None:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"], name="gather")],
        "embedding",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(_random(16, 8, seed=0), "table")],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = _half(source)
    assert [tensor.data_type for tensor in model.graph.initializer] == [TensorProto.FLOAT16]
    (rows,) = _run(model, {"ids": np.array([3, 0])})
    table = numpy_helper.to_array(source.graph.initializer[0])
    assert np.array_equal(rows, table[[3, 0]].astype(np.float16).astype(np.float32))


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value_float=1.0)],
        "branch",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [])],
    )
    graph = helper.make_graph(
        [
            helper.make_node(
                "If", ["flag"], ["y"], name="if", then_branch=branch, else_branch=branch
            )
        ],
        "control",
        [helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(UnsupportedError, match="node 'if' \\(If\\) holds a subgraph"):
        to_half(ir.from_proto(model))


def test_unknown_types_are_inferred() -> None:
    bare = _layer()
    del bare.graph.value_info[:]
    assert _types(_half(bare)) == _types(_half(_layer()))


@pytest.mark.parametrize("largest", [7e4, np.inf, np.nan])
def test_a_weight_past_the_range_of_half_is_refused(largest: float) -> None:
    proto = _layer()
    weight = next(one for one in proto.graph.initializer if one.name == "wq")
    array = numpy_helper.to_array(weight).copy()
    array[3, 4] = largest
    weight.CopyFrom(numpy_helper.from_array(array, "wq"))
    with pytest.raises(UnsupportedError) as caught:
        to_half(ir.from_proto(proto))
    assert str(caught.value) == (
        f"the weight 'wq' of node 'q' reaches {largest:.3g}, past float16's 65504; export its component in fp32"
    )


@pytest.mark.parametrize("operator", ["Mul", "Div"])
def test_a_large_factor_stays_in_float32(operator: str) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["small"], name="product"),
        helper.make_node(operator, ["small", "factor"], ["y"], name="scale"),
    ]
    weights = {
        "w": np.eye(4, dtype=np.float32) / 16,
        "factor": np.array(1e6 if operator == "Mul" else 2.0**20, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    to_half(model)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    x = np.array([[1.0, 2.0, 4.0, 8.0]], np.float32)
    (got,) = session.run(None, {"x": x})
    expected = x / 16 * weights["factor"] if operator == "Mul" else x / 16 / weights["factor"]
    # powers of two in the product are exact in float16; the factor is applied in float32
    np.testing.assert_allclose(got, expected, rtol=1e-6)
