"""Each pass on a graph of a few nodes: the numbers stay, the form changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from moir_edge.bundle import TensorSpec
from moir_edge.errors import UnsupportedError
from moir_edge.export import cleanup

HEADER = '<ir_version: 10, opset_import: ["" : 21]> g '


def parse(text: str, **weights: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(HEADER + text)
    for name, value in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name.replace("__", ".")))
    return ir.from_proto(proto)


def run(model: ir.Model, **feed: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(content, options).run(None, feed)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_transposed_weight_is_folded() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)  # (N, K)
    model = parse(
        '(float[b, 3] x) => (float[b, 2] y) { t = Transpose <perm = [1, 0]> ("a.w") y = MatMul (x, t) }',
        a__w=weight,
    )
    x = np.ones((1, 3), np.float32)
    before = run(model, x=x)
    cleanup.fold_transposed_weights(model)
    assert operators(model) == ["MatMul"]
    np.testing.assert_array_equal(model.graph.initializers["a.w"].const_value.numpy(), weight.T)
    np.testing.assert_array_equal(run(model, x=x), before)


def test_transposed_weight_that_others_read_is_kept_too() -> None:
    weight = np.arange(4, dtype=np.float32).reshape(2, 2)
    model = parse(
        "(float[b, 2] x) => (float[b, 2] y) "
        '{ t = Transpose <perm = [1, 0]> ("a.w") m = MatMul (x, t) y = Add (m, "a.w") }',
        a__w=weight,
    )
    x = np.ones((2, 2), np.float32)
    before = run(model, x=x)
    cleanup.fold_transposed_weights(model)
    assert set(model.graph.initializers) == {"a.w", "a.w.T"}
    np.testing.assert_array_equal(run(model, x=x), before)


def test_reshape_of_a_reshape_reads_the_first_input() -> None:
    model = parse(
        "(float[4, 6] x) => (float[b, c] z) { y = Reshape <allowzero = 1> (x, first) "
        "z = Reshape <allowzero = 1> (y, second) }",
        first=np.array([2, 2, 6]),
        second=np.array([8, 3]),
    )
    cleanup.merge_reshapes(model)
    assert model.graph.node(1).inputs[0].name == "x"
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(run(model, x=x)[-1], x.reshape(8, 3))


def test_reshape_that_may_copy_an_axis_is_left_alone() -> None:
    model = parse(
        "(float[4, 6] x) => (float[b, c] z) { y = Reshape (x, first) z = Reshape (y, second) }",
        first=np.array([2, 12]),
        second=np.array([0, 12]),
    )
    cleanup.merge_reshapes(model)
    assert model.graph.node(1).inputs[0].name == "y"


def test_product_with_an_inverse_root_becomes_a_quotient() -> None:
    model = parse("(float[3] x) => (float[3] y) { r = Sqrt (x) i = Reciprocal (r) y = Mul (i, x) }")
    x = np.array([1, 4, 9], np.float32)
    cleanup.divide_by_roots(model)
    assert "Div" in operators(model)
    assert "Mul" not in operators(model)
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_array_equal(run(model, x=x)[0], [1, 2, 3])


def test_default_attributes_go_and_others_stay() -> None:
    model = parse(
        "(float[2, 3] x) => (float[2, 1] y, float[2, 3] s) "
        "{ y = ReduceMean <keepdims = 1, noop_with_empty_axes = 0> (x, axes) s = Softmax <axis = 0> (x) }",
        axes=np.array([1]),
    )
    cleanup.drop_default_attributes(model)
    mean, softmax = model.graph
    assert not mean.attributes
    assert softmax.attributes.get_int("axis") == 0


def test_symbolic_digit_is_refused() -> None:
    model = parse("(float[batch, s32] x) => (float[batch, s32] y) { y = Neg (x) }")
    with pytest.raises(
        UnsupportedError, match=r"x has the axis 's32'; expected a number or one of"
    ):
        cleanup.check_graph(model)


def test_foreign_operator_is_refused() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21, "pkg" : 1]> g '
        "(float[batch] x) => (float[batch] y) { y = pkg.Thing (x) }"
    )
    with pytest.raises(
        UnsupportedError, match="pkg::Thing; a bundle may hold only standard ONNX operators"
    ):
        cleanup.check_graph(ir.from_proto(proto))


def test_interface_of_another_length_is_refused() -> None:
    model = parse("(float[batch] x) => (float[batch] y) { y = Neg (x) }")
    spec = TensorSpec(name="x", dtype="float32", shape=("batch",))
    with pytest.raises(UnsupportedError, match="1 inputs or outputs, expected 2: x, x"):
        cleanup.set_interface(model, inputs=[spec, spec], outputs=[spec])


def test_read_tensor_gives_what_was_set() -> None:
    model = parse("(int64[batch, 3] x) => (int64[batch, 3] y) { y = Neg (x) }")
    assert cleanup.read_tensor(model.graph.inputs[0]) == TensorSpec(
        name="x", dtype="int64", shape=("batch", 3)
    )


def test_other_opset_is_refused() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[batch] x) => (float[batch] y) { y = Neg (x) }'
    )
    with pytest.raises(UnsupportedError, match="opset 20, expected 21"):
        cleanup.check_graph(ir.from_proto(proto))
