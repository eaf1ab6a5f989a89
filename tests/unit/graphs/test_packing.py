"""Linear layers that read one value become one product, with the same bits in every form of weight."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from moir_edge.graphs.packing import pack_products
from moir_edge.graphs.writing import write_graphs

WIDTH, PARTS = 64, {"layers.0.q_proj": 32, "layers.0.k_proj": 16, "layers.0.v_proj": 16}
RANDOM = np.random.default_rng(0)


def constants(name: str, form: str, width: int) -> list[onnx.TensorProto]:
    """Return what a weight (64, width) of a form is made of."""
    if form == "float":
        return [numpy_helper.from_array(RANDOM.standard_normal((WIDTH, width)).astype("f"), name)]
    if form == "half":
        array = RANDOM.standard_normal((WIDTH, width)).astype(np.float16)
        return [numpy_helper.from_array(array, name)]
    if form == "matrix scale":
        codes = RANDOM.integers(-127, 128, (WIDTH, width)).astype(np.int8)
        return [
            numpy_helper.from_array(codes, f"{name}_int8"),
            numpy_helper.from_array(np.float32(0.01), f"{name}_scale"),
        ]
    if form == "columns":
        codes = RANDOM.integers(-127, 128, (WIDTH, width)).astype(np.int8)
        scales = RANDOM.random(width).astype("f")
        return [
            numpy_helper.from_array(codes, f"{name}_int8"),
            numpy_helper.from_array(scales, f"{name}_scale"),
        ]
    numbers = RANDOM.integers(0, 16, WIDTH * width)
    packed = helper.make_tensor(f"{name}_int4", TensorProto.UINT4, (WIDTH, width), numbers)
    scales = RANDOM.random((WIDTH // 16, width)).astype("f")
    zeros = helper.make_tensor(
        f"{name}_zero", TensorProto.UINT4, scales.shape, RANDOM.integers(0, 16, scales.size)
    )
    return [packed, numpy_helper.from_array(scales, f"{name}_scale"), zeros]


def model(forms: dict[str, str], *, biased: bool = False) -> onnx.ModelProto:
    """Return a graph with a linear layer of each form, all of one input."""
    nodes, tensors, outputs = [], [], []
    for number, (name, form) in enumerate(forms.items()):
        made = constants(name, form, PARTS[name])
        tensors += made
        names = [tensor.name for tensor in made]
        weight = names[0]
        if form == "half":
            weight = f"wide{number}"
            nodes.append(helper.make_node("Cast", names, [weight], to=TensorProto.FLOAT))
        elif form != "float":
            weight = f"wide{number}"
            axis = {"matrix scale": {}, "columns": {"axis": 1}}.get(
                form, {"axis": 0, "block_size": 16}
            )
            nodes.append(helper.make_node("DequantizeLinear", names, [weight], **axis))
        product = f"p{number}" if biased else f"y{number}"
        nodes.append(helper.make_node("MatMul", ["x", weight], [product]))
        if biased:
            bias = RANDOM.random(PARTS[name]).astype("f")
            tensors.append(numpy_helper.from_array(bias, f"{name}.bias"))
            nodes.append(helper.make_node("Add", [product, f"{name}.bias"], [f"y{number}"]))
        shape = ["batch", PARTS[name]]
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, shape))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])
    graph = helper.make_graph(nodes, "g", [given], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def packed(proto: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return the graph as it is written once its products are packed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)  # renaming a value renames the tensor that it was read from
    found = ir.from_proto(copy)
    pack_products(found)
    write_graphs({"g": found}, folder)
    return onnx.load(folder / "g.onnx")


def answers(proto: onnx.ModelProto) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options)
    x = np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32)
    return list(session.run(None, {"x": x}))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("form", ["float", "half", "columns", "blocks"])
def test_layers_of_one_input_are_one_product(form: str, biased: bool, tmp_path: Path) -> None:
    before = model(dict.fromkeys(PARTS, form), biased=biased)
    after = packed(before, tmp_path)
    operators = Counter(node.op_type for node in after.graph.node)
    assert (operators["MatMul"], operators["Split"], operators["Add"]) == (1, 1, int(biased))
    for one, other in zip(answers(before), answers(after), strict=True):
        # The same products; a wider matrix may be summed in other blocks.
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)
    (node,) = (node for node in after.graph.node if node.op_type == "MatMul")
    ending = {"columns": "_int8", "blocks": "_int4"}.get(form, "")
    assert node.name == f"layers.0.q_proj+k_proj+v_proj{ending}"


@pytest.mark.parametrize(
    "forms",
    [
        pytest.param(["blocks", "float", "blocks"], id="one layer kept in float"),
        pytest.param(["columns", "columns", "blocks"], id="mixed precisions"),
        pytest.param(["matrix scale"] * 3, id="a scale for the whole matrix"),
    ],
)
def test_weights_that_cannot_lie_side_by_side_stay(forms: list[str], tmp_path: Path) -> None:
    before = model(dict(zip(PARTS, forms, strict=True)))
    after = packed(before, tmp_path)
    assert Counter(node.op_type for node in after.graph.node)["MatMul"] == 3
    for one, other in zip(answers(before), answers(after), strict=True):
        np.testing.assert_array_equal(other, one)


def test_a_single_layer_stays(tmp_path: Path) -> None:
    before = model({"layers.0.q_proj": "float"})
    after = packed(before, tmp_path)
    assert [node.op_type for node in after.graph.node] == ["MatMul"]
