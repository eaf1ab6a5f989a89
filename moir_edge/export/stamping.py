"""Put copies of a traced layer in the places of marks, each with its own layer's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from moir_edge.export.marks import DOMAIN
from moir_edge.export.repeated_layers import Call, PatternUnknown

__all__ = ["stamp"]


@dataclass(frozen=True, kw_only=True)
class _Template:
    """The graph of a traced layer.

    Attributes:
        path: Name of its module.
        entry: The mark in front; its outputs are what the layer reads.
        nodes: Those between the marks, in order.
        leave: The mark behind; its inputs are what the layer gives.
    """

    path: str
    entry: ir.Node
    nodes: Sequence[ir.Node]
    leave: ir.Node


def stamp(model: ir.Model, calls: Sequence[Call], names: Mapping[str, str]) -> None:
    """Replace every mark of `moir_edge.export.repeated_layers`.

    Requires: parameters are inputs of the graph, under their names in the traced module.
    Ensures: no mark is left; the copies read the parameters of their own layers, which are inputs too.

    Args:
        model: Edited in place.
        calls: The calls of layers, by the number in a mark.
        names: Every name of a parameter to the one that it has in a graph; two for a shared parameter.

    Raises:
        PatternUnknown: A traced layer does not stand between its marks.
    """
    graph = model.graph
    templates = _templates(graph, calls)
    parameters = {str(value.name): value for value in graph.inputs}
    for node in list(graph):
        if node.domain != DOMAIN or node.op_type != "Layer":
            continue
        call = calls[_number(node)]
        template = templates.get(call.traced)
        if template is None:
            raise PatternUnknown(f"{call.path}: the layer that it looks like is not in the graph")
        _Stamp(graph, template, call.path, parameters, names).put(node)
    for template in templates.values():
        _remove(graph, template.leave, template.leave.inputs)
        _remove(graph, template.entry, template.entry.inputs)
    model.opset_imports.pop(DOMAIN, None)


def _templates(graph: ir.Graph, calls: Sequence[Call]) -> dict[int, _Template]:
    found: dict[int, _Template] = {}
    entry: ir.Node | None = None
    nodes: list[ir.Node] = []
    for node in graph:
        if node.domain == DOMAIN and node.op_type == "Enter":
            entry, nodes = node, []
        elif node.domain == DOMAIN and node.op_type == "Leave":
            if entry is None or _number(entry) != _number(node):
                raise PatternUnknown("a layer ends that has not begun")
            path = calls[_number(node)].path
            found[_number(node)] = _Template(path=path, entry=entry, nodes=nodes, leave=node)
            entry = None
        elif entry is not None:
            nodes.append(node)
    if entry is not None:
        raise PatternUnknown("a layer begins that does not end")
    return found


def _number(node: ir.Node) -> int:
    return node.attributes.get_int("call", -1)


def _remove(graph: ir.Graph, node: ir.Node, values: Sequence[ir.Value | None]) -> None:
    """Let the users of a mark's outputs read `values`, and take the mark out."""
    for output, value in zip(node.outputs, values, strict=True):
        if value is None:
            raise PatternUnknown("a layer gives a value that is not in the graph")
        if output.is_graph_output():
            value.name = output.name
        output.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)


class _Stamp:
    """Copies one traced layer to the place of a mark.

    Args:
        graph: Edited in place.
        template: The traced layer.
        path: Name of the layer that the mark stands for.
        parameters: The graph's inputs by name; those that the copy is the first to read are added.
        names: As `stamp` takes it.
    """

    def __init__(
        self,
        graph: ir.Graph,
        template: _Template,
        path: str,
        parameters: dict[str, ir.Value],
        names: Mapping[str, str],
    ) -> None:
        self._graph, self._template, self._path = graph, template, path
        self._parameters, self._names = parameters, names
        self._copies: dict[ir.Value, ir.Value] = {}

    def put(self, mark: ir.Node) -> None:
        """Replace a mark by the copy."""
        for value, given in zip(self._template.entry.outputs, mark.inputs, strict=True):
            if given is None:
                raise PatternUnknown(f"{self._path} reads a value that is not in the graph")
            self._copies[value] = given
        self._graph.insert_before(mark, [self._copy(node) for node in self._template.nodes])
        _remove(self._graph, mark, [self._value(one) for one in self._template.leave.inputs])

    def _copy(self, node: ir.Node) -> ir.Node:
        for attribute in node.attributes.values():
            if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                raise PatternUnknown(f"{self._template.path} has a graph inside of {node.op_type}")
        copy = ir.Node(
            node.domain,
            node.op_type,
            [self._value(value) for value in node.inputs],
            list(node.attributes.values()),
            overload=node.overload,
            num_outputs=len(node.outputs),
            version=node.version,
            name=f"{self._path}/{node.name}",
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type, new.shape = f"{self._path}/{old.name}", old.type, old.shape
            self._copies[old] = new
        return copy

    def _value(self, value: ir.Value | None) -> ir.Value | None:
        """Return what the copy reads or gives where the traced layer has `value`."""
        if value is None:
            return None
        known = self._copies.get(value)
        if known is None:
            known = self._copies[value] = self._parameter(value)
        return known

    def _parameter(self, value: ir.Value) -> ir.Value:
        """Return this layer's parameter for one of the traced layer's; anything else is shared by all layers."""
        prefix = f"{self._template.path}."
        name = str(value.name)
        if not value.is_graph_input() or not name.startswith(prefix):
            return value
        own = self._names[f"{self._path}.{name.removeprefix(prefix)}"]
        found = self._parameters.get(own)
        if found is None:
            found = self._parameters[own] = ir.Value(name=own, type=value.type, shape=value.shape)
            self._graph.inputs.append(found)
        return found
