"""Tests of the walk over a graph's messages, against graphs that `onnx` writes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from moir_edge.bundle.graph_files import weight_locations


def outside(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def model_of(place: str, tensor: TensorProto) -> ModelProto:
    """Put a tensor where the ONNX schema allows one."""
    inner = helper.make_graph([], "inner", [], [], initializer=[tensor])
    sparse = helper.make_sparse_tensor(
        outside("values") if place == "sparse" else tensor,
        numpy_helper.from_array(np.array([0], np.int64), "at"),
        [4],
    )
    nodes = {
        "attribute": [helper.make_node("Constant", [], ["c"], value=tensor)],
        "attribute list": [helper.make_node("X", [], ["c"], domain="d", values=[tensor])],
        "subgraph": [helper.make_node("If", ["b"], ["c"], then_branch=inner, else_branch=inner)],
    }.get(place, [])
    graph = helper.make_graph(nodes, "outer", [], [])
    if place == "initializer":
        graph.initializer.append(tensor)
    if place == "sparse":
        graph.sparse_initializer.append(sparse)
    model = helper.make_model(graph)
    if place == "function":
        node = helper.make_node("Constant", [], ["c"], value=tensor)
        model.functions.append(helper.make_function("d", "f", [], ["c"], [node], []))
    return model


@pytest.mark.parametrize(
    "place",
    ["initializer", "sparse", "attribute", "attribute list", "subgraph", "function"],
)
def test_every_place_of_a_tensor_is_seen(place: str) -> None:
    found = weight_locations(model_of(place, outside("../x.data")).SerializeToString())
    assert found == ({"values"} if place == "sparse" else {"../x.data"})


def test_a_graph_without_files_has_none() -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "location")
    assert weight_locations(model_of("initializer", tensor).SerializeToString()) == frozenset()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"graph", "unknown wire type"),
        (b"\x3a\x7f", "longer than its message"),
        (b"\x0d\x00", "longer than its message"),
        (b"\x08" + b"\xff" * 12, "a number is cut off"),
    ],
)
def test_other_bytes_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weight_locations(content)


def test_nesting_is_bounded() -> None:
    content = b""
    for _ in range(200):  # a graph in an attribute of a node in a graph
        content = b"\x32" + _size(content) + content
        content = b"\x2a" + _size(content) + content
        content = b"\x0a" + _size(content) + content
    with pytest.raises(ValueError, match="nested deeper than 64"):
        weight_locations(b"\x3a" + _size(content) + content)


def _size(content: bytes) -> bytes:
    left, digits = len(content), []
    while left >= 0x80:
        digits.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*digits, left])
