"""A graph as text, for exact comparison: operators, attributes, edges, names, types, and the bytes of initializers."""

from __future__ import annotations

import hashlib

import onnx_ir as ir


def graph_lines(model: ir.Model) -> list[str]:
    """Return one line per input, initializer, node and output."""
    graph = model.graph
    return [
        str(sorted(model.opset_imports.items())),
        *(_value(value) for value in graph.inputs),
        *(f"{_value(value)} {_digest(value)}" for value in graph.initializers.values()),
        *(_node(node) for node in graph),
        *(_value(value) for value in graph.outputs),
    ]


def _node(node: ir.Node) -> str:
    inputs = [None if value is None else value.name for value in node.inputs]
    attributes = sorted((one.name, str(one.value)) for one in node.attributes.values())
    outputs = [_value(value) for value in node.outputs]
    return f"{node.name} {node.domain}::{node.op_type} {inputs} {attributes} -> {outputs}"


def _value(value: ir.Value) -> str:
    return f"{value.name} {value.dtype} {value.shape}"


def _digest(value: ir.Value) -> str:
    tensor = value.const_value
    assert tensor is not None
    return f"{tensor.dtype} {hashlib.sha256(tensor.tobytes()).hexdigest()}"
