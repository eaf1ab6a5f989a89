"""Groups of layers that are watched in one pass."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from moir_edge.calibration.groups import group_observers

WIDTH = 64
GRAM = 8 * WIDTH * WIDTH
VALUES = 4 * 1024 * WIDTH


def _chain(layers: int, prefix: str) -> ir.Model:
    """Return matrix products in a row, each of its own activation."""
    weights = [
        onnx.numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), f"{prefix}w{at}")
        for at in range(layers)
    ]
    nodes = [
        onnx.helper.make_node(
            "MatMul", [f"{prefix}x{at}", f"{prefix}w{at}"], [f"{prefix}x{at + 1}"]
        )
        for at in range(layers)
    ]
    ends = [
        onnx.helper.make_tensor_value_info(f"{prefix}x{at}", onnx.TensorProto.FLOAT, [1, WIDTH])
        for at in (0, layers)
    ]
    graph = onnx.helper.make_graph(nodes, prefix, ends[:1], ends[1:], weights)
    opset = onnx.helper.make_opsetid("", 21)
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=[opset]))


GRAPHS = {"vision": _chain(3, "v"), "embedding": _chain(1, "e"), "decoder": _chain(4, "d")}


def _names(budget: int, **components: bool) -> list[dict[str, list[str]]]:
    groups = group_observers(GRAPHS, components, budget)
    return [{name: list(own) for name, own in group.items()} for group in groups]


def test_all_that_fits_is_one_group() -> None:
    assert _names(1 << 30, vision=True, decoder=True) == [
        {"vision": ["vx0", "vx1", "vx2"], "decoder": ["dx0", "dx1", "dx2", "dx3"]}
    ]


@pytest.mark.parametrize("gram", [True, False])
def test_groups_stay_within_the_budget_in_graph_order(gram: bool) -> None:
    each = VALUES + (GRAM if gram else 0)
    found = _names(2 * each, decoder=gram, vision=gram)
    assert found == [
        {"vision": ["vx0", "vx1"]},
        {"vision": ["vx2"], "decoder": ["dx0"]},
        {"decoder": ["dx1", "dx2"]},
        {"decoder": ["dx3"]},
    ]
    # A byte less, and two no longer fit.
    assert len(_names(2 * each - 1, decoder=gram, vision=gram)) == 7


def test_nothing_to_watch_is_one_empty_group() -> None:
    assert _names(1) == [{}]
