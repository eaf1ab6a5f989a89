"""Put operators into a graph: constants by name, and heads as ONNX Runtime's attention takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from moir_edge.graphs.editing import constant, remove_unused
from moir_edge.graphs.fused.patterns import NotFusedError, producer
from moir_edge.graphs.naming import number_values

__all__ = [
    "DOMAIN",
    "finish",
    "flat",
    "flat_key",
    "insert_after",
    "ints",
    "linear",
    "maker",
    "put_heads",
    "source",
]

DOMAIN = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""

_OPSET = 23  # RotaryEmbedding's first
# Orders of axes: heads of (batch, sequence, heads, head_dim) to the front, keys of it to where scores take them, and back.
_HEADS_FIRST, _KEY_FIRST, _KEY_BACK = [0, 2, 1, 3], [0, 2, 3, 1], [0, 3, 1, 2]
_HEADS_LAST_TWO = [0, 1, 3, 2]


def finish(model: ir.Model) -> None:
    """Drop what the new operators leave unused, and name the operator sets.

    Args:
        model: Edited in place.
    """
    for step in (
        common.RemoveUnusedNodesPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ):
        step(model)
    remove_unused(model.graph)
    model.opset_imports[""] = _OPSET
    model.opset_imports[DOMAIN] = 1
    number_values(model)


def insert_after(graph: ir.Graph, value: ir.Value, node: ir.Node) -> None:
    """Put a node where a value is known: behind its maker, or at the start of the graph."""
    made = value.producer()
    if made is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(made, node)


def ints(graph: ir.Graph, name: str, numbers: Sequence[int]) -> ir.Value:
    """Return a constant of the graph; one of the same name is taken again."""
    key = f"fused.{name}"
    if key not in graph.initializers:
        array = np.array(numbers, np.int64)
        graph.initializers[key] = constant(key, array, ir.DataType.INT64)
    return graph.initializers[key]


def source(node: ir.Node) -> ir.Value:
    """Return what a node reads first.

    Raises:
        NotFusedError: It reads nothing.
    """
    value = node.inputs[0]
    if value is None:
        raise NotFusedError(f"{node.op_type} has no input")
    return value


def maker(value: ir.Value) -> ir.Node:
    """Return the node that gives a value.

    Raises:
        NotFusedError: None does.
    """
    node = value.producer()
    if node is None:
        raise NotFusedError(f"{value.name} is not computed in the graph")
    return node


def flat(graph: ir.Graph, anchor: ir.Node, value: ir.Value) -> ir.Value:
    """Return (batch, sequence, heads × head_dim) of (batch, heads, sequence, head_dim).

    Args:
        graph: Gets nodes where the heads were not split from a linear layer's result.
        anchor: They go in front of it.
        value: The heads.
    """
    order, inner = _turned(value)
    return _joined(graph, anchor, inner if order == _HEADS_FIRST else None, value, _HEADS_FIRST)


def flat_key(graph: ir.Graph, anchor: ir.Node, value: ir.Value) -> ir.Value:
    """Return (batch, sequence, heads × head_dim) of a key as scores take it, (batch, heads, head_dim, sequence).

    Args:
        graph: Gets nodes where the heads were not split from a linear layer's result.
        anchor: They go in front of it.
        value: The key.
    """
    order, inner = _turned(value)
    if order == _HEADS_LAST_TWO:
        return flat(graph, anchor, inner)
    return _joined(graph, anchor, inner if order == _KEY_FIRST else None, value, _KEY_BACK)


def _joined(
    graph: ir.Graph,
    anchor: ir.Node,
    inner: ir.Value | None,
    value: ir.Value,
    order: Sequence[int],
) -> ir.Value:
    """Join the heads of (batch, sequence, heads, head_dim), or of `value` once it is brought into that order."""
    if inner is None:
        turned = ir.node("Transpose", inputs=[value], attributes={"perm": list(order)})
        graph.insert_before(anchor, turned)
        inner = turned.outputs[0]
    found = _product_of(inner)
    if found is not None:
        return found
    node = ir.node("Reshape", inputs=[inner, ints(graph, "flat", [0, 0, -1])])
    graph.insert_before(anchor, node)
    return node.outputs[0]


def linear(value: ir.Value) -> ir.Value | None:
    """Return the linear layer's result that was turned to (batch, heads, sequence, head_dim), or None."""
    order, inner = _turned(value)
    return _product_of(inner) if order == _HEADS_FIRST else None


def _turned(value: ir.Value) -> tuple[list[int], ir.Value]:
    """Return the order of a Transpose that gives a value, and what it reads; no order and the value where none does."""
    node = producer(value, "Transpose")
    return (
        ([], value) if node is None else (list(node.attributes.get_ints("perm", [])), source(node))
    )


def _product_of(heads: ir.Value) -> ir.Value | None:
    """Return the linear layer's result that a Reshape split into heads, or None."""
    reshaped = producer(heads, "Reshape")
    inner = None if reshaped is None else reshaped.inputs[0]
    return inner if inner is not None and _is_product(inner) else None


def _is_product(value: ir.Value) -> bool:
    """Say whether a value is a linear layer's result, (batch, sequence, width)."""
    node = value.producer()
    if node is not None and node.op_type == "Add":
        makers = [one.producer() for one in node.inputs if one is not None]
        return any(one is not None and one.op_type == "MatMul" for one in makers)
    return node is not None and node.op_type in ("MatMul", "Split")


def put_heads(graph: ir.Graph, old: ir.Value, rows: ir.Value, shape: Sequence[int]) -> None:
    """Give the result of attention to the users of the old one.

    Args:
        graph: Gets a Reshape where a user does not join the heads itself.
        old: (batch, sequence, heads, head_dim).
        rows: (batch, sequence, heads × head_dim).
        shape: Of `old`, 0 for an axis to copy.
    """
    for user, _ in list(old.uses()):
        if user.op_type == "Reshape" and _joins_heads(user):
            user.outputs[0].replace_all_uses_with(rows)
    if any(any(out.uses() for out in user.outputs) for user, _ in old.uses()):
        node = ir.node("Reshape", inputs=[rows, ints(graph, f"heads_{shape[2]}_{shape[3]}", shape)])
        graph.insert_after(maker(rows), node)
        old.replace_all_uses_with(node.outputs[0])


def _joins_heads(reshape: ir.Node) -> bool:
    """Say whether a Reshape gives (batch, sequence, width)."""
    shape = reshape.inputs[1]
    made = None if shape is None else shape.producer()
    if made is not None:
        return made.op_type == "Concat" and len(made.inputs) == 3
    tensor = None if shape is None else shape.const_value
    return tensor is not None and tensor.size == 3
