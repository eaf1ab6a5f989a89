"""Put copies of a traced layer in the places of marks, each with its own layer's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from moir_edge.export.borrowed_cache import BorrowedCache
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


def stamp(
    model: ir.Model, calls: Sequence[Call], names: Mapping[str, str], cache: BorrowedCache
) -> None:
    """Replace every mark of `moir_edge.export.repeated_layers`.

    Requires: parameters are inputs of the graph, under their names in the traced module.
    Ensures: no mark is left; the copies read the parameters of their own layers, which are inputs too, and keys and values
    that their layers borrowed are inputs and outputs of the graph, in any order.

    Args:
        model: Edited in place.
        calls: The calls of layers, by the number in a mark.
        names: Every name of a parameter to the one that it has in a graph; two for a shared parameter.
        cache: Which layers borrowed.

    Raises:
        PatternUnknown: A traced layer does not stand between its marks, or something reads what a layer borrowed.
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
        renamed = cache.own_names(call.cache_index, calls[call.traced].cache_index)
        _Stamp(graph, template, call, parameters, names, renamed).put(node)
    _remove_gone(graph)
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


def _remove_gone(graph: ir.Graph) -> None:
    """Take out the marks of what nobody may read: keys and values of layers that are not in the trace."""
    for node in list(graph):
        if node.domain == DOMAIN and node.op_type == "Gone":
            if any(output.uses() or output.is_graph_output() for output in node.outputs):
                raise PatternUnknown("the cache of one layer is read by another")
            graph.remove(node, safe=True)


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
        call: What the mark stands for.
        parameters: The graph's inputs by name; those that the copy is the first to read are added.
        names: As `stamp` takes it.
        renamed: Names of the traced layer's keys and values to those of this layer, where it borrowed them.
    """

    def __init__(
        self,
        graph: ir.Graph,
        template: _Template,
        call: Call,
        parameters: dict[str, ir.Value],
        names: Mapping[str, str],
        renamed: Mapping[str, str],
    ) -> None:
        self._graph, self._template, self._call = graph, template, call
        self._path = call.path
        self._parameters, self._names, self._renamed = parameters, names, renamed
        self._copies: dict[ir.Value, ir.Value] = {}

    def put(self, mark: ir.Node) -> None:
        """Replace a mark by the copy."""
        entry, leave = self._template.entry, self._template.leave
        given = dict(zip(self._call.given, mark.inputs, strict=True))
        for place, value in enumerate(entry.outputs):
            source = given.get(place, entry.inputs[place])
            if source is None:
                raise PatternUnknown(f"{self._path} reads a value that is not in the graph")
            own = self._renamed.get(str(source.name)) if place not in given else None
            self._copies[value] = source if own is None else self._input(own, source)
        self._graph.insert_before(mark, [self._copy(node) for node in self._template.nodes])
        found = [self._value(one) for one in leave.inputs]
        returned = len(mark.outputs)
        _remove(self._graph, mark, found[:returned])
        for written, theirs in zip(found[returned:], leave.outputs[returned:], strict=True):
            self._give(written, theirs)

    def _give(self, value: ir.Value | None, theirs: ir.Value) -> None:
        """Make an output of what the traced layer writes to its cache."""
        own = self._renamed.get(str(theirs.name)) if theirs.is_graph_output() else None
        if value is None or own is None or value.is_graph_output() or value.is_graph_input():
            raise PatternUnknown(f"{self._path} writes to its cache what is no output of its own")
        value.name = own
        self._graph.outputs.append(value)

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
        return self._input(self._names[f"{self._path}.{name.removeprefix(prefix)}"], value)

    def _input(self, name: str, like: ir.Value) -> ir.Value:
        found = self._parameters.get(name)
        if found is None:
            found = self._parameters[name] = ir.Value(name=name, type=like.type, shape=like.shape)
            self._graph.inputs.append(found)
        return found
