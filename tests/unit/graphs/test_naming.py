"""Short names: parameters by their place, the rest by number."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from moir_edge.graphs.naming import name_parameters, number_values


def model_with(*names: str) -> ir.Model:
    body = " ".join(
        f'v{index} = MatMul ({"x" if index == 0 else f"v{index - 1}"}, "{name}")'
        for index, name in enumerate(names)
    )
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[b, 2] x) => (float[b, 2] y) '
        f"{{ {body} y = Neg (v{len(names) - 1}) }}"
    )
    for name in names:
        proto.graph.initializer.append(numpy_helper.from_array(np.eye(2, dtype=np.float32), name))
    return ir.from_proto(proto)


def test_parameters_keep_layer_and_module() -> None:
    model = model_with(
        "lm.layers.3.self_attn.q_proj.weight", "encoder.layers.0.mlp.fc1.bias", "lm_head.weight"
    )
    name_parameters(model)
    names = set(model.graph.initializers)
    assert names == {"layers.3.q_proj", "layers.0.fc1.bias", "lm_head.weight"}
    assert model.graph.node(0).name == "layers.3.q_proj"


def test_two_parameters_of_one_short_name_keep_the_long_one() -> None:
    long = ("a.layers.0.x.proj.weight", "a.layers.0.y.proj.weight")
    model = model_with(*long)
    name_parameters(model)
    assert set(model.graph.initializers) == set(long)


def test_values_are_numbered_and_the_interface_is_not() -> None:
    model = model_with("a.layers.0.proj.weight", "_0")
    number_values(model)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert set(model.graph.initializers) == {"a.layers.0.proj.weight", "_0"}
    assert [node.outputs[0].name for node in model.graph] == ["_1", "_2", "y"]


def test_node_names_are_unique() -> None:
    model = model_with("a.layers.0.proj.weight")
    first = model.graph.node(0)
    again = ir.node("MatMul", inputs=list(first.inputs))
    model.graph.insert_after(first, again)
    name_parameters(model)
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
