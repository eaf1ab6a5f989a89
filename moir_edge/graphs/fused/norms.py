"""Lower RMS norms to one operator each, with the sum in front of one where there is one."""

from __future__ import annotations

import onnx_ir as ir

from moir_edge.graphs.fused.patterns import numbers, producer, sole

__all__ = ["fuse_norms"]

_DOMAIN = "com.microsoft"


def fuse_norms(graph: ir.Graph) -> None:
    """Replace each RMS norm over the last axis by the operator that ONNX Runtime has for it.

    Args:
        graph: Edited in place; what stood in the place of the norms is left unused.
    """
    for node in list(graph):
        found = _norm(node)
        if found is not None:
            _replace(graph, node, *found)


def _norm(node: ir.Node) -> tuple[ir.Value, ir.Value, float] | None:
    """Return what a norm reads, its weight and its epsilon: weight × (x ÷ √(mean(x²) + ε))."""
    if node.op_type != "Mul":
        return None
    for weight, quotient in (node.inputs, node.inputs[::-1]):
        divided = producer(quotient, "Div")
        if divided is None or weight is None or not _is_vector(weight):
            continue
        source, root = divided.inputs[0], producer(divided.inputs[1], "Sqrt")
        epsilon = None if root is None else _epsilon(root.inputs[0], source)
        if source is not None and epsilon is not None:
            return source, weight, epsilon
    return None


def _is_vector(weight: ir.Value) -> bool:
    """Say whether a value is a constant of one axis, widened or not."""
    cast = producer(weight, "Cast")
    stored = weight if cast is None else cast.inputs[0]
    tensor = None if stored is None else stored.const_value
    return tensor is not None and len(tensor.shape) == 1


def _epsilon(value: ir.Value | None, source: ir.Value | None) -> float | None:
    """Return ε where `value` is mean(source²) + ε over the last axis."""
    added = producer(value, "Add")
    mean = None if added is None else producer(added.inputs[0], "ReduceMean")
    power = None if mean is None else producer(mean.inputs[0], "Pow")
    if added is None or mean is None or power is None or power.inputs[0] is not source:
        return None
    squared = sole(power.inputs[1]) == 2.0
    last = numbers(mean.inputs[1]) == [-1.0] if len(mean.inputs) > 1 else False
    return sole(added.inputs[1]) if squared and last else None


def _replace(
    graph: ir.Graph, node: ir.Node, source: ir.Value, weight: ir.Value, epsilon: float
) -> None:
    attributes = {"epsilon": epsilon}
    added = _sum(source)
    if added is None:
        # ONNX Runtime registers this one in the standard domain; no ONNX standard has it.
        made = ir.node(
            "SimplifiedLayerNormalization",
            inputs=[source, weight],
            attributes={**attributes, "axis": -1},
        )
    else:
        made = ir.node(
            "SkipSimplifiedLayerNormalization",
            inputs=[*added.inputs, weight],
            domain=_DOMAIN,
            attributes=attributes,
            num_outputs=4,
        )
        for unused in made.outputs[1:3]:
            unused.name = ""
    graph.insert_before(node, made)
    made.outputs[0].type, made.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    node.outputs[0].replace_all_uses_with(made.outputs[0], replace_graph_outputs=True)
    if added is not None:
        total = made.outputs[3]
        total.type, total.shape = source.type, source.shape
        for user, index in list(source.uses()):
            user.replace_input_with(index, total)


def _sum(source: ir.Value) -> ir.Node | None:
    """Return the residual connection that gives a value, (batch, sequence, width) on both sides."""
    node = producer(source, "Add")
    if node is None or source.is_graph_output():
        return None
    sides = [None if one is None else one.const_value for one in node.inputs]
    return node if all(one is None for one in sides) else None
