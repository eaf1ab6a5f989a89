"""Compute a rotary embedding's tables for every position of a context, as constants that a runtime folds when it loads the graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from moir_edge.graphs.editing import constant
from moir_edge.graphs.fused.building import ints

__all__ = ["LARGEST_TABLE", "rotary_tables"]

LARGEST_TABLE = 1 << 25
"""Bytes of memory that two tables may take: 128 Ki positions of heads of 32, or 64 Ki of heads of 64."""


def rotary_tables(
    graph: ir.Graph, cosine: ir.Value, sine: ir.Value, context_length: int, head_dim: int
) -> tuple[ir.Value, ir.Value] | None:
    """Return cosines and sines by position, or None where they depend on more than the position or would take much memory.

    Args:
        graph: Gets the nodes, which read constants alone.
        cosine: (batch, sequence, head_dim), computed of the input `position_ids`, (batch, sequence).
        sine: Like `cosine`.
        context_length: Positions.
        head_dim: Width of a head.

    Returns:
        (context_length, head_dim / 2) float32 each, bit for bit what the graph computes.
    """
    if 2 * 4 * context_length * (head_dim // 2) > LARGEST_TABLE:
        return None
    nodes: dict[ir.Node, None] = {}
    inputs: dict[ir.Value, None] = {}
    for value in (cosine, sine):
        _collect(value, nodes, inputs)
    if [value.name for value in inputs] != ["position_ids"]:
        return None
    (positions,) = inputs
    if positions.shape is None or len(positions.shape) != 2:
        return None
    counted = _counted(graph, context_length)
    made = [ir.node("Range", inputs=counted)]
    made.append(ir.node("Unsqueeze", inputs=[made[0].outputs[0], ints(graph, "row", [0])]))
    copies = {positions: made[1].outputs[0]}
    for node in nodes:
        made.append(_copy(node, copies))
    first, second = (_half(graph, copies[value], head_dim, made) for value in (cosine, sine))
    graph.insert_before(graph[0], made)
    return first, second


def _counted(graph: ir.Graph, context_length: int) -> list[ir.Value]:
    """Return start, end and step of a Range, scalars."""
    found = []
    for name, number in (("start", 0), ("end", context_length), ("step", 1)):
        key = f"fused.{name}"
        if key not in graph.initializers:
            graph.initializers[key] = constant(key, np.int64(number), ir.DataType.INT64)
        found.append(graph.initializers[key])
    return found


def _collect(value: ir.Value, nodes: dict[ir.Node, None], inputs: dict[ir.Value, None]) -> None:
    """Gather the nodes that a value is computed by, each after those that it reads."""
    maker = value.producer()
    if maker is None:
        if value.const_value is None:
            inputs[value] = None
        return
    if maker in nodes:
        return
    for one in maker.inputs:
        if one is not None:
            _collect(one, nodes, inputs)
    nodes[maker] = None


def _copy(node: ir.Node, copies: dict[ir.Value, ir.Value]) -> ir.Node:
    """Return a node that reads copies where there are any; its outputs are entered as copies."""
    made = ir.node(
        node.op_type,
        inputs=[None if one is None else copies.get(one, one) for one in node.inputs],
        attributes=node.attributes,
        num_outputs=len(node.outputs),
    )
    copies.update(zip(node.outputs, made.outputs, strict=True))
    return made


def _half(graph: ir.Graph, table: ir.Value, head_dim: int, made: list[ir.Node]) -> ir.Value:
    """Return (context, head_dim / 2) of (1, context, head_dim)."""
    bounds = [ints(graph, f"half_{at}", [at]) for at in (0, head_dim // 2, -1)]
    made.append(ir.node("Slice", inputs=[table, *bounds]))
    made.append(ir.node("Squeeze", inputs=[made[-1].outputs[0], ints(graph, "row", [0])]))
    return made[-1].outputs[0]
