"""Find the weights of a graph and the form in which each is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from moir_edge.graphs.editing import node_of, take_over

__all__ = [
    "MIN_ELEMENTS",
    "WeightUse",
    "find_head",
    "find_weight_uses",
    "is_head",
    "reason_to_leave",
]

MIN_ELEMENTS = 1024
"""Numbers of the least weight that is made narrow: scales and an extra node cost more than a smaller one would save."""

_AFTER_HEAD = frozenset(
    {
        *("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"),
        *("Div", "Mul", "Tanh"),  # a scale of the logits, a soft-cap
    }
)


@dataclass(frozen=True, kw_only=True)
class WeightUse:
    """One node that reads one float weight.

    Attributes:
        node: MatMul, Gemm, Gather or Conv.
        value: The float initializer.
        kind: ``matmul`` for a (K, N) weight; ``transposed`` for (N, K), as Gemm with transB reads it; ``table``
            for the (tokens, hidden) table of a Gather; ``other``.
        shape: Shape of the weight as (K, N), or as it lies for ``other``.
        obstacle: Why the weight cannot be quantized; empty if it can.
    """

    node: ir.Node
    value: ir.Value
    kind: Literal["matmul", "transposed", "table", "other"]
    shape: tuple[int, ...]
    obstacle: str = ""

    @property
    def name(self) -> str:
        """Name of the float initializer."""
        return self.value.name or ""

    @property
    def activation(self) -> str:
        """Name of what the weight is multiplied with: the node's first input."""
        source = self.node.inputs[0]
        return "" if source is None else str(source.name)

    def is_named(self, pattern: str) -> bool:
        """Say whether a name, or a pattern as ``*.lm_head.*``, is that of the node or of the initializer."""
        return any(fnmatchcase(name, pattern) for name in (self.node.name or "", self.name))

    def matrix(self) -> npt.NDArray[np.float32]:
        """Return the weight as (K, N) float32; K is hidden and N the vocabulary for a table.

        Each call may read the weight anew: ask once, and drop it after use.
        """
        if self.value.const_value is None:
            raise ValueError(f"{self.name} is not an initializer")
        array = np.asarray(self.value.const_value.numpy(), dtype=np.float32)
        return array if self.kind == "matmul" else np.ascontiguousarray(array.T)

    def connect(self, graph: ir.Graph, weight: ir.Value) -> None:
        """Let the node read `weight` (K, N) in place of its float initializer.

        Args:
            graph: The graph that holds the node.
            weight: The dequantized weight.
        """
        if self.kind == "table":
            self._gather_columns(graph, weight)
            return
        self.node.replace_input_with(1, weight)
        if self.kind == "transposed":
            self.node.attributes["transB"] = ir.AttrInt64("transB", 0)

    def _gather_columns(self, graph: ir.Graph, weight: ir.Value) -> None:
        """Gather columns of (hidden, vocabulary) and move `hidden` last."""
        old = self.node.outputs[0]
        ids = self.node.inputs[1]
        rank = len(ids.shape) if ids is not None and ids.shape is not None else 2
        gather = node_of(
            "Gather", [weight, ids], f"{self.node.name}/columns", attributes={"axis": 1}
        )
        move = node_of(
            "Transpose",
            gather.outputs,
            f"{self.node.name}/hidden_last",
            attributes={"perm": [*range(1, rank + 1), 0]},
        )
        graph.insert_before(self.node, [gather, move])
        take_over(old, move.outputs[0])
        graph.remove(self.node, safe=True)


def find_weight_uses(graph: ir.Graph) -> Iterator[WeightUse]:
    """Yield every use of a float weight by MatMul, Gemm, Conv or a token table, in graph order.

    Args:
        graph: The main graph; it may be edited between two items.
    """
    for node in list(graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        use = _use_of(node)
        if use is not None:
            yield use


def _use_of(node: ir.Node) -> WeightUse | None:
    if node.op_type in ("MatMul", "Gemm"):
        return _matmul_use(node)
    if node.op_type == "Conv" and (weight := _float_initializer(node, 1)) is not None:
        obstacle = "no runtime fuses a weight-only convolution"
        return _other(node, weight, obstacle)
    if node.op_type == "Gather" and (weight := _float_initializer(node, 0)) is not None:
        return _table_use(node, weight)
    return None


def _matmul_use(node: ir.Node) -> WeightUse | None:
    left, right = _float_initializer(node, 0), _float_initializer(node, 1)
    if right is None:
        return None if left is None else _other(node, left, "the weight is the left operand")
    shape = _shape(right)
    if len(shape) != 2:
        return _other(node, right, f"a weight of rank {len(shape)} is not a (K, N) matrix")
    if node.attributes.get_int("transA", 0) or node.attributes.get_float("alpha", 1.0) != 1.0:
        return _other(node, right, "Gemm with transA or alpha is not fused by the runtimes")
    if node.attributes.get_int("transB", 0):
        return WeightUse(node=node, value=right, kind="transposed", shape=shape[::-1])
    return WeightUse(node=node, value=right, kind="matmul", shape=shape)


def _table_use(node: ir.Node, weight: ir.Value) -> WeightUse | None:
    """Return the use of a token table; a Gather by anything but a graph input is left alone, unlisted."""
    ids = node.inputs[1]
    if ids is None or not ids.is_graph_input():
        return None
    shape = _shape(weight)
    if len(shape) != 2 or node.attributes.get_int("axis", 0) != 0:
        return _other(
            node, weight, "the table is not (tokens, hidden) gathered along its first axis"
        )
    return WeightUse(node=node, value=weight, kind="table", shape=shape[::-1])


def _other(node: ir.Node, weight: ir.Value, obstacle: str) -> WeightUse:
    return WeightUse(node=node, value=weight, kind="other", shape=_shape(weight), obstacle=obstacle)


def _float_initializer(node: ir.Node, index: int) -> ir.Value | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value if value.const_value.dtype == ir.DataType.FLOAT else None


def _shape(value: ir.Value) -> tuple[int, ...]:
    tensor = value.const_value
    return () if tensor is None else tuple(int(size) for size in tensor.shape.numpy())


def is_head(node: ir.Node) -> bool:
    """Say whether a node's output is the graph's `logits`, up to a change of shape or type, a scale or a soft-cap."""
    (value,) = node.outputs
    while not value.is_graph_output():
        users = value.consumers()
        if len(users) != 1 or users[0].op_type not in _AFTER_HEAD:
            return False
        value = users[0].outputs[0]
    return value.name == "logits"


def find_head(graph: ir.Graph) -> str | None:
    """Return the name of the node that multiplies by the head's weight, or None."""
    return next((use.node.name for use in find_weight_uses(graph) if is_head(use.node)), None)


def reason_to_leave(use: WeightUse, exclude: Sequence[str] = ()) -> str:
    """Return why a weight stays float, or nothing.

    Args:
        use: From `find_weight_uses`.
        exclude: Names, or patterns as ``*.lm_head.*``, of nodes and initializers.
    """
    if any(use.is_named(pattern) for pattern in exclude):
        return "excluded by the caller"
    if use.obstacle:
        return use.obstacle
    elements = int(np.prod(use.shape))
    if elements < MIN_ELEMENTS:
        return f"{elements} weights are too few to gain from it"
    return ""
