"""The layers that a mix chooses for, and what each would be in each precision it may take.

A layer's precisions form a ladder, smallest first: what the bundle's precision makes of it, then the fall-back of that
format and so on, up to float32. A weight that several nodes read, as the tied table of embedding and head, is one layer:
raising it in one place only would store it twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from moir_edge.calibration.formats import FORMATS
from moir_edge.calibration.mixed.constants import constant_bytes, evaluate_constant
from moir_edge.calibration.patterns import WeightUse, find_weight_uses
from moir_edge.calibration.summary import QuantizationSummary
from moir_edge.precisions import FP32

__all__ = ["ActivationRounding", "Layer", "LayerTable", "LayerUse", "Quantizer", "ladder"]

Array = npt.NDArray[Any]

Quantizer = Callable[[str, ir.Model, Mapping[str, str]], QuantizationSummary | None]
"""Called as ``quantizer(component, model, precisions)``: quantizes a graph in place, some nodes to a precision of their own."""

_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class LayerUse:
    """One node that reads a layer's weight.

    Attributes:
        component: Name of the graph.
        node: Name of the node.
    """

    component: str
    node: str


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One weight and the nodes that read it.

    Attributes:
        uses: At least one.
        weight: Name of the float initializer at the first use.
        shape: (K, N) as the first use sees it.
        precisions: Those that it may take, smallest first, ``fp32`` last.
        bytes: What the weight and its scales take in each of them.
    """

    uses: tuple[LayerUse, ...]
    weight: str
    shape: tuple[int, ...]
    precisions: tuple[str, ...]
    bytes: tuple[int, ...]

    @property
    def name(self) -> str:
        """``component: node`` of the first use, and of the others behind it."""
        return " + ".join(f"{use.component}: {use.node}" for use in self.uses)


@dataclass(frozen=True, kw_only=True)
class ActivationRounding:
    """Operands of the `QuantizeLinear` that stores a layer's input."""

    scale: Array
    zero_point: Array
    dtype: ir.DataType


def ladder(precision: str) -> tuple[str, ...]:
    """Return a precision and its fall-backs, up to ``fp32``."""
    steps = [precision]
    while steps[-1] in FORMATS:
        steps.append(FORMATS[steps[-1]].fallback)
    return tuple(steps)


class LayerTable:
    """Quantizes every graph once per precision, and reads from the copies what each layer is there.

    Args:
        graphs: Float graphs of the components whose layers may be raised.
        quantizer: How a component is quantized; without precisions of its own for a node it gives the floor.
        float_bytes: What a weight that stays float takes: 4, or 2 where the target stores it in half precision.

    Attributes:
        graphs: As given.
        layers: In graph order; those that the floor leaves in float32 are not among them.
    """

    def __init__(
        self, graphs: Mapping[str, ir.Model], quantizer: Quantizer, *, float_bytes: int = 4
    ) -> None:
        self.graphs = graphs
        self._float_bytes = float_bytes
        self._quantizer = quantizer
        self._copies: dict[tuple[str, str], _Copy] = {}
        self._floors: dict[LayerUse, str] = {}
        self._uses: dict[LayerUse, WeightUse] = {}
        for component, graph in graphs.items():
            self._add_component(component, graph)
        groups = self._groups()
        self._add_higher_precisions()
        self.layers = tuple(self._layer(uses) for uses in groups)

    def weight(self, use: LayerUse, precision: str) -> npt.NDArray[np.float32] | None:
        """Return the weight as the node would see it in a precision, laid out as the float initializer is.

        None where that precision did more than to round the weight: a method that scales rows and takes the scale out
        of what comes before leaves a weight that means nothing without its surroundings.
        """
        source = self._uses[use]
        matrix = evaluate_constant(_weight_of(self._node(use, precision)))
        original = source.matrix()
        error = np.linalg.norm(matrix - original) / max(float(np.linalg.norm(original)), _TINY)
        expected = self._copy(use, precision).relative_errors[use.node]
        # The same figure by another order of float32 sums.
        if not np.isclose(error, expected, rtol=1e-2, atol=1e-5):
            return None
        return matrix if source.kind == "matmul" else np.ascontiguousarray(matrix.T)

    def alone(self, layer: Layer, precision: str) -> dict[str, ir.Model]:
        """Return the components that hold a layer, quantized for real with all other layers in float32."""
        models = {}
        for component in {use.component: None for use in layer.uses}:
            chosen = {use.node: FP32 for use in self._of(component)}
            chosen |= {use.node: precision for use in layer.uses if use.component == component}
            models[component] = self.graphs[component].clone()
            self._quantizer(component, models[component], chosen)
        return models

    def rounding(self, use: LayerUse, precision: str) -> ActivationRounding | None:
        """Return how the node's input is stored in a precision, or None where it stays float."""
        value = self._node(use, precision).inputs[0]
        dequantize = None if value is None else value.producer()
        source = None if dequantize is None else dequantize.inputs[0]
        quantize = None if source is None else source.producer()
        if quantize is None or quantize.op_type != "QuantizeLinear":
            return None
        scale, zero_point = (_tensor(value) for value in quantize.inputs[1:3])
        if scale is None or zero_point is None:
            return None
        return ActivationRounding(
            scale=scale.numpy(), zero_point=zero_point.numpy(), dtype=zero_point.dtype
        )

    def _add_component(self, component: str, graph: ir.Model) -> None:
        """Quantize one graph to the floor and note what became of each layer."""
        model = graph.clone()
        summary = self._quantizer(component, model, {})
        entries = {} if summary is None else {entry.node: entry for entry in summary.weights}
        for weight_use in find_weight_uses(graph.graph):
            node = str(weight_use.node.name)
            if node in entries and entries[node].precision != FP32:
                use = LayerUse(component=component, node=node)
                self._floors[use], self._uses[use] = entries[node].precision, weight_use
        for precision in {self._floors[use] for use in self._of(component)}:
            self._copies[component, precision] = _Copy(model, summary)

    def _add_higher_precisions(self) -> None:
        for component in self.graphs:
            floors = {use: self._floors[use] for use in self._of(component)}
            for precision in sorted({step for floor in floors.values() for step in ladder(floor)}):
                self._add_precision(component, precision, floors)

    def _add_precision(
        self, component: str, precision: str, floors: Mapping[LayerUse, str]
    ) -> None:
        """Quantize a copy in which the layers that can be raised to a precision are, and no other is quantized."""
        chosen = {
            use.node: precision if precision in ladder(floor)[1:] else FP32
            for use, floor in floors.items()
        }
        if precision == FP32 or set(chosen.values()) == {FP32}:
            return
        model = self.graphs[component].clone()
        summary = self._quantizer(component, model, chosen)
        self._copies[component, f"raised {precision}"] = _Copy(model, summary)

    def _copy(self, use: LayerUse, precision: str) -> _Copy:
        floor = self._floors[use]
        return self._copies[use.component, floor if precision == floor else f"raised {precision}"]

    def _node(self, use: LayerUse, precision: str) -> ir.Node:
        nodes = self._copy(use, precision).nodes
        return nodes[use.node if use.node in nodes else f"{use.node}/columns"]

    def _of(self, component: str) -> list[LayerUse]:
        return [use for use in self._floors if use.component == component]

    def _groups(self) -> list[tuple[LayerUse, ...]]:
        """Put uses of the same float weight and floor together."""
        groups: dict[tuple[str, str], list[LayerUse]] = {}
        for use, weight_use in self._uses.items():
            groups.setdefault((_digest(weight_use), self._floors[use]), []).append(use)
        return [tuple(uses) for uses in groups.values()]

    def _layer(self, uses: Sequence[LayerUse]) -> Layer:
        first = self._uses[uses[0]]
        precisions = ladder(self._floors[uses[0]])
        quantized = [
            constant_bytes(_weight_of(self._node(uses[0], name))) for name in precisions[:-1]
        ]
        return Layer(
            uses=tuple(uses),
            weight=first.name,
            shape=first.shape,
            precisions=precisions,
            bytes=(*quantized, self._float_bytes * int(np.prod(first.shape))),
        )


class _Copy:
    """A graph in which layers are quantized, by node."""

    def __init__(self, model: ir.Model, summary: QuantizationSummary | None) -> None:
        self.nodes = {str(node.name): node for node in model.graph}
        entries = () if summary is None else summary.weights
        self.relative_errors = {entry.node: entry.relative_error for entry in entries}


def _weight_of(node: ir.Node) -> ir.Value:
    """Return what a quantized node multiplies by, (K, N), or gathers columns of."""
    value = node.inputs[0 if node.op_type == "Gather" else 1]
    if value is None:
        raise ValueError(f"node {node.name!r} has no weight")
    return value


def _tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    return None if value is None else value.const_value


def _digest(use: WeightUse) -> str:
    tensor = use.value.const_value
    content = b"" if tensor is None else tensor.tobytes()
    return hashlib.sha256(content).hexdigest()
