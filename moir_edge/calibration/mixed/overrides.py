"""A float graph in which any layer can be tried in another precision at one run, by inputs that are fed or left out.

Each layer's weight becomes an input with the float weight for its default; each input of a layer that a format would
round goes through that rounding or past it, by a switch that is off by default. So one session serves every trial, and a
run without further inputs is the float model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from moir_edge.calibration.mixed.layers import ActivationRounding, Layer, LayerTable, LayerUse

__all__ = ["TRIAL_SESSION", "TrialGraphs"]

Array = npt.NDArray[Any]

TRIAL_SESSION = {"session.disable_quant_qdq": "1"}
"""Session entries of a trial graph: the switched roundings are run as written."""


class TrialGraphs:
    """Copies of the float graphs with overridable weights, and what to feed them for one layer in one precision.

    Args:
        table: The layers.

    Attributes:
        models: By component; weights are shared with the float graphs.
    """

    def __init__(self, table: LayerTable) -> None:
        self._table = table
        self._weights: dict[LayerUse, str] = {}
        self._switches: dict[tuple[LayerUse, str], str] = {}
        self.models = {name: model.clone() for name, model in table.graphs.items()}
        self._nodes = {
            (name, str(node.name)): node
            for name, model in self.models.items()
            for node in model.graph
        }
        for number, layer in enumerate(table.layers):
            self._add(layer, number)
        for model in self.models.values():
            _remove_unused(model.graph)

    def feeds(self, layer: Layer, precision: str) -> dict[str, dict[str, Array]] | None:
        """Return the inputs, by component, under which one layer is in a precision and all else in float32.

        None where inputs alone cannot do it, see `LayerTable.weight`; `LayerTable.alone` has the graphs that can.
        """
        feeds: dict[str, dict[str, Array]] = {}
        for use in layer.uses:
            own = feeds.setdefault(use.component, {})
            weight = self._table.weight(use, precision)
            if weight is None:
                return None
            own[self._weights[use]] = weight
            if (use, precision) in self._switches:
                own[self._switches[use, precision]] = np.array(True)
        return feeds

    def _add(self, layer: Layer, number: int) -> None:
        for at, use in enumerate(layer.uses):
            name = f"trial.{number}.{at}"
            self._override_weight(use, f"{name}.weight")
            for precision in layer.precisions[:-1]:
                rounding = self._table.rounding(use, precision)
                if rounding is not None:
                    self._switches[use, precision] = f"{name}.{precision}"
                    self._add_switch(use, rounding, f"{name}.{precision}")

    def _override_weight(self, use: LayerUse, name: str) -> None:
        graph = self.models[use.component].graph
        node = self._nodes[use.component, use.node]
        index = 0 if node.op_type == "Gather" else 1
        old = node.inputs[index]
        if old is None or old.const_value is None:
            raise ValueError(f"{use.node} has no constant weight")
        # A tensor of its own around the same numbers: a tensor has one name, and the float graph's keeps its own.
        tensor = ir.Tensor(old.const_value.numpy(), dtype=old.const_value.dtype, name=name)
        node.replace_input_with(index, _input(graph, name, tensor))
        self._weights[use] = name

    def _add_switch(self, use: LayerUse, rounding: ActivationRounding, name: str) -> None:
        """Put Where(switch, rounded x, x) in front of a node."""
        graph = self.models[use.component].graph
        node = self._nodes[use.component, use.node]
        value = node.inputs[0]
        if value is None:
            return
        switch = _input(graph, name, ir.Tensor(np.array(False), name=name))
        scale = _constant(graph, f"{name}.scale", rounding.scale, ir.DataType.FLOAT)
        zero = _constant(graph, f"{name}.zero", rounding.zero_point, rounding.dtype)
        integers = _node("QuantizeLinear", [value, scale, zero], f"{name}.q", rounding.dtype)
        floats = _node("DequantizeLinear", [integers.outputs[0], scale, zero], f"{name}.dq")
        chosen = _node("Where", [switch, floats.outputs[0], value], f"{name}.x")
        for one in (integers, floats, chosen):
            one.outputs[0].shape = value.shape
        graph.insert_before(node, [integers, floats, chosen])
        node.replace_input_with(0, chosen.outputs[0])


def _input(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Add an input with a default."""
    value = _initializer(name, tensor)
    graph.initializers[name] = value
    graph.inputs.append(value)
    return value


def _constant(graph: ir.Graph, name: str, array: Array, dtype: ir.DataType) -> ir.Value:
    value = _initializer(name, ir.Tensor(array, dtype=dtype, name=name))
    graph.initializers[name] = value
    return value


def _initializer(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    shape = ir.Shape(tensor.shape.numpy())
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)


def _node(
    op_type: str, inputs: Sequence[ir.Value], name: str, dtype: ir.DataType = ir.DataType.FLOAT
) -> ir.Node:
    node = ir.node(op_type, inputs=inputs, name=name)
    node.outputs[0].name, node.outputs[0].dtype = name, dtype
    return node


def _remove_unused(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            graph.initializers.pop(name)
