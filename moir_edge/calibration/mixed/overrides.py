"""A float graph in which any layer can be tried in another precision at one run, by inputs that are fed or left out.

Each layer's weight becomes an input with the float weight for its default; each input of a layer that a format would
round goes through that rounding or past it, by a switch that is off by default. So one session serves every trial, and a
run without further inputs is the float model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from moir_edge.calibration.mixed.layers import ActivationRounding, Layer, LayerTable, LayerUse
from moir_edge.graphs.editing import add_constant, node_of, remove_unused

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
            remove_unused(model.graph)

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
        # A tensor of its own around the same numbers: it has one name, and the float graph's keeps its own.
        weight = _input(graph, name, old.const_value.numpy(), old.const_value.dtype)
        node.replace_input_with(index, weight)
        self._weights[use] = name

    def _add_switch(self, use: LayerUse, rounding: ActivationRounding, name: str) -> None:
        """Put Where(switch, rounded x, x) in front of a node."""
        graph = self.models[use.component].graph
        node = self._nodes[use.component, use.node]
        value = node.inputs[0]
        if value is None:
            return
        switch = _input(graph, name, np.array(False), ir.DataType.BOOL)
        scale = add_constant(graph, f"{name}.scale", rounding.scale, ir.DataType.FLOAT)
        zero = add_constant(graph, f"{name}.zero", rounding.zero_point, rounding.dtype)
        integers = node_of(
            "QuantizeLinear", [value, scale, zero], f"{name}.q", like=value, dtype=rounding.dtype
        )
        read = [integers.outputs[0], scale, zero]
        floats = node_of("DequantizeLinear", read, f"{name}.dq", like=value)
        chosen = node_of("Where", [switch, floats.outputs[0], value], f"{name}.x", like=value)
        graph.insert_before(node, [integers, floats, chosen])
        node.replace_input_with(0, chosen.outputs[0])


def _input(graph: ir.Graph, name: str, array: Array, dtype: ir.DataType) -> ir.Value:
    """Add an input with a default."""
    value = add_constant(graph, name, array, dtype)
    graph.inputs.append(value)
    return value
