"""Drop what a decoder computes of all but the last token of each row."""

from __future__ import annotations

import onnx_ir as ir

from moir_edge.graphs.fused.building import insert_after, ints
from moir_edge.graphs.fused.patterns import NotFusedError

__all__ = ["keep_last_tokens"]


def keep_last_tokens(graph: ir.Graph, last: ir.Value) -> None:
    """Go on with one token of each row behind the last layer's attention: nothing else reaches the logits.

    Args:
        graph: A decoder with fused attention; edited in place.
        last: (batch, 1) int64, the place of the token among the new ones.

    Raises:
        NotFusedError: What follows depends on the number of tokens.
    """
    attention = [node for node in graph if node.op_type == "GroupQueryAttention"][-1]
    below = _below(attention.outputs[0])
    outside = {attention.outputs[0]: None}
    for node in graph:
        if node in below:
            read = [one for one in node.inputs if one is not None and _varies(one)]
            outside.update({one: None for one in read if one.producer() not in below})
    for value in outside:
        if value.dtype == ir.DataType.INT64:
            raise NotFusedError("what follows its last attention depends on the number of tokens")
        picked = _picked(graph, value, last)
        for user, index in list(value.uses()):
            if user in below:
                user.replace_input_with(index, picked)


def _picked(graph: ir.Graph, value: ir.Value, last: ir.Value) -> ir.Value:
    """Return (batch, 1, …) of (batch, sequence, …)."""
    node = ir.node("GatherND", inputs=[value, last], attributes={"batch_dims": 1})
    kept = ir.node("Unsqueeze", inputs=[node.outputs[0], ints(graph, "one", [1])])
    insert_after(graph, value, node)
    graph.insert_after(node, kept)
    return kept.outputs[0]


def _below(value: ir.Value) -> set[ir.Node]:
    """Return every node that a value flows into."""
    found: set[ir.Node] = set()
    front = [value]
    while front:
        for user, _ in front.pop().uses():
            if user not in found:
                found.add(user)
                front.extend(user.outputs)
    return found


def _varies(value: ir.Value) -> bool:
    """Say whether a value is computed of an input, and not of constants alone as a widened weight is."""
    node = value.producer()
    if node is None:
        return value.is_graph_input() and not value.is_initializer()
    return any(one is not None and _varies(one) for one in node.inputs)
