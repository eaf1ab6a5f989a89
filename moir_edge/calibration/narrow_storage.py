"""Store weights in half the bytes and compute in float32: float16 or bfloat16 on disk, widened before they are used.

ONNX Runtime has no float16 or bfloat16 products for a processor that are worth having. What narrow weights save there is
disk: it folds the `Cast` in front of each weight as it loads the graph, which then runs as a float32 one does.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from moir_edge.calibration.patterns import MIN_ELEMENTS, WeightUse, find_weight_uses
from moir_edge.graphs.editing import initializer, node_of, remove_unused, take_over
from moir_edge.graphs.stored import NarrowTensor, StoredTensor

__all__ = ["store_narrow"]

_TO_FLOAT = {"to": ir.DataType.FLOAT}


def store_narrow(model: ir.Model, dtype: ir.DataType | None) -> None:
    """Store the weights of products and token tables in a narrower float, in place.

    Requires: weights are float32 initializers of the main graph.
    Ensures: inputs, outputs and what is computed between them stay float32, as do norms, biases and small weights; a
    weight that two graphs share has the same bytes in both.

    Args:
        model: Edited in place.
        dtype: FLOAT16 or BFLOAT16; a weight past its range is refused when it is written. None takes the type in which
            the checkpoint has a weight, if that is one of the two, so that nothing is lost.
    """
    graph = model.graph
    narrow: dict[str, ir.Value] = {}
    widened: dict[str, ir.Value] = {}
    for use in find_weight_uses(graph):
        if math.prod(use.shape) < MIN_ELEMENTS:
            continue
        chosen = dtype or _own_type(use)
        if chosen is None:
            continue
        if use.name not in narrow:
            narrow[use.name] = _narrow(use, chosen)
        if use.kind == "table":
            _widen_rows(graph, use, narrow[use.name])
            continue
        if use.name not in widened:
            widened[use.name] = _cast(graph, narrow[use.name], use.node)
        use.node.replace_input_with(_index(use), widened[use.name])
    remove_unused(graph, tuple(narrow))
    for value in narrow.values():
        graph.initializers[str(value.name)] = value


def _own_type(use: WeightUse) -> ir.DataType | None:
    """Return the narrow type in which a checkpoint has a weight; None if it has another or is not known."""
    tensor = use.value.const_value
    storage = tensor.storage if isinstance(tensor, StoredTensor) else None
    return storage if storage in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) else None


def _narrow(use: WeightUse, dtype: ir.DataType) -> ir.Value:
    """Return the narrow initializer of a weight."""
    tensor = use.value.const_value
    if tensor is None:
        raise ValueError(f"{use.name} is not an initializer")
    return initializer(f"{use.name}_{dtype.name.lower()}", NarrowTensor(tensor, dtype, use.name))


def _index(use: WeightUse) -> int:
    """Return which input of its node a weight is."""
    return next(at for at, value in enumerate(use.node.inputs) if value is use.value)


def _cast(graph: ir.Graph, narrow: ir.Value, before: ir.Node) -> ir.Value:
    """Put the `Cast` of a weight in front of the first node that reads it."""
    node = node_of("Cast", [narrow], f"{narrow.name}/wide", like=narrow, attributes=_TO_FLOAT)
    graph.insert_before(before, node)
    return node.outputs[0]


def _widen_rows(graph: ir.Graph, use: WeightUse, narrow: ir.Value) -> None:
    """Gather rows of the narrow table and widen those alone."""
    (old,) = use.node.outputs
    inputs = [narrow, use.node.inputs[1]]
    rows = node_of("Gather", inputs, str(use.node.name), output=f"{use.node.name}/narrow", like=old)
    rows.outputs[0].type = narrow.type
    wide = node_of("Cast", rows.outputs, f"{use.node.name}/wide", like=old, attributes=_TO_FLOAT)
    graph.insert_before(use.node, [rows, wide])
    take_over(old, wide.outputs[0])
    graph.remove(use.node, safe=True)
