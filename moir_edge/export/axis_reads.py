"""Places where a graph reads the length of an axis: torch takes any input that has it, and which one changes with the trace."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from moir_edge.bundle import TensorSpec

__all__ = ["read_axes_once"]


def read_axes_once(model: ir.Model, inputs: Sequence[TensorSpec]) -> None:
    """Read each named axis once, from the first input that has it, in front of all other nodes.

    Args:
        model: Edited in place.
        inputs: The interface; axes of one name are of one length.
    """
    graph = model.graph
    places: dict[str, tuple[str, int]] = {}
    for tensor in inputs:
        for place, axis in enumerate(tensor.shape):
            if isinstance(axis, str):
                places.setdefault(axis, (tensor.name, place))
    shapes = {tensor.name: tensor.shape for tensor in inputs}
    values = {str(value.name): value for value in graph.inputs}
    reads: dict[str, ir.Node] = {}
    for node in list(graph):
        length = _axis(node, shapes)
        if length is None:
            continue
        if length not in reads:
            name, place = places[length]
            reads[length] = _read(values[name], place, like=node.outputs[0])
        node.outputs[0].replace_all_uses_with(reads[length].outputs[0], replace_graph_outputs=True)
        graph.remove(node, safe=True)
    if reads:
        graph.insert_before(next(iter(graph)), [reads[name] for name in places if name in reads])


def _axis(node: ir.Node, shapes: dict[str, tuple[int | str, ...]]) -> str | None:
    """Return the name of the axis of an input whose length a node reads, if that is what it does."""
    value = node.inputs[0] if node.op_type == "Shape" and node.domain == "" else None
    if value is None or not value.is_graph_input():
        return None
    shape = shapes.get(str(value.name))
    if shape is None:
        return None
    part = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape)))
    chosen = shape[part]
    return chosen[0] if len(chosen) == 1 and isinstance(chosen[0], str) else None


def _read(value: ir.Value, place: int, like: ir.Value) -> ir.Node:
    node = ir.node("Shape", inputs=[value], attributes={"start": place, "end": place + 1})
    output = node.outputs[0]
    output.name, output.type, output.shape = like.name, like.type, like.shape
    return node
