"""Turn a float32 graph into a strongly typed float16 one whose inputs and outputs stay float32.

Matrix products and convolutions run in float16; what sums squares, exponentiates or counts runs in float32. Everything
between follows its inputs, the wider type winning, so that a normalisation stays in float32 from end to end and the cache,
which is float32 outside, is never rounded twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from moir_edge.errors import UnsupportedError
from moir_edge.graphs.editing import add_constant, node_of, remove_unused

__all__ = ["HALF_MAX", "HALF_OPERATORS", "WIDE_OPERATORS", "to_half"]

HALF_OPERATORS = frozenset(
    {"Conv", "ConvTranspose", "DequantizeLinear", "Einsum", "Gemm", "MatMul"}
)
"""Operators that run in float16: their cost is in their weights or their products."""

WIDE_OPERATORS = frozenset(
    {
        *("BatchNormalization", "GroupNormalization", "InstanceNormalization"),
        *("LayerNormalization", "LpNormalization", "RMSNormalization"),
        *("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum"),
        *("ReduceSumSquare", "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Softmax", "LogSoftmax"),
        *("Cos", "Sin", "CumSum", "Range", "Resize", "TopK"),
    }
)
"""Operators that stay in float32: squares and exponentials pass float16's 65,504, and positions need its digits."""

_WEIGHT_OPERATORS = HALF_OPERATORS | {"Gather"}
"""Operators whose constants are weights: one that is clamped gives wrong numbers, where a clamped mask masks as before."""

HALF_MAX = float(np.finfo(np.float16).max)
"""Largest finite float16, 65,504."""

# Masks multiply by the lowest float32 or near it.
_MASK = 1e30
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def to_half(model: ir.Model, *, keep_fp32: Sequence[str] = ()) -> None:
    """Convert a graph in place.

    Requires: no control flow; weights are initializers. Model-local functions are inlined.
    Ensures: inputs and outputs keep their types; every operator gets floats of one type; weights of matrix
    products are float16; other constants past ±65,504 that are needed in float16, as attention masks are, are
    clamped to it.

    Args:
        model: Edited in place.
        keep_fp32: Names, or patterns, of nodes to keep in float32, such as ``*.router.*``.

    Raises:
        UnsupportedError: The graph holds If, Loop or Scan, a value whose type is unknown, or a weight past ±65,504.
    """
    if model.functions:
        common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _drop_widening(model.graph)
    _require_types(model)
    converter = _Converter(model.graph)
    for node in list(model.graph):
        converter.convert(node, wide=_is_kept(node, keep_fp32))
    converter.restore_outputs()
    remove_unused(model.graph)


def _drop_widening(graph: ir.Graph) -> None:
    """Drop what widens float16 weights that a bundle for a processor stores: they stay as they are."""
    for node in list(graph):
        value = node.inputs[0] if node.op_type == "Cast" else None
        if value is None or not value.is_initializer():
            continue
        if _is_float(value) and _is_float(node.outputs[0]):
            node.outputs[0].replace_all_uses_with(value)
            graph.remove(node, safe=True)


def _is_kept(node: ir.Node, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(node.name or "", pattern) for pattern in patterns)


def _require_types(model: ir.Model) -> None:
    """Raise unless the type of every value is known, inferring it where a pass dropped it."""
    values = [value for node in model.graph for value in node.outputs]
    if any(value.dtype is None for value in values):
        common.ShapeInferencePass()(model)
    for node in model.graph:
        if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
            raise UnsupportedError(
                f"node {node.name!r} ({node.op_type}) holds a subgraph; fp16 supports only graphs without subgraphs"
            )
        if node.op_type != "Constant" and any(
            value.dtype is None for value in node.outputs if value.name
        ):
            raise UnsupportedError(
                f"the output type of node {node.name!r} ({node.op_type}) is unknown; "
                "export the graph with type information"
            )


class _Converter:
    """Holds the converted copies of values, so that each is made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._copies: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def convert(self, node: ir.Node, *, wide: bool) -> None:
        """Give one node floats of one type; its producers are converted already."""
        if node.op_type == "Cast" or not any(_is_float(value) for value in node.outputs):
            # A comparison or a Cast takes either type, but its floats must agree.
            self._unify(node, self._follow(node))
            return
        wide = wide or node.op_type in WIDE_OPERATORS or _has_large_factor(node)
        chosen = _FLOAT if wide else self._type_of(node)
        self._unify(node, chosen)
        for output in node.outputs:
            if _is_float(output):
                # A new type object: clones of a graph share theirs with the original.
                output.type = ir.TensorType(chosen)

    def _type_of(self, node: ir.Node) -> ir.DataType:
        if node.op_type in HALF_OPERATORS:
            return _HALF
        # A table is a weight: gathering from it in float16 keeps it small, and a tied head shares it.
        if node.op_type == "Gather" and _is_initializer(node.inputs[0]):
            return _HALF
        return self._follow(node)

    def _follow(self, node: ir.Node) -> ir.DataType:
        """Return the widest type among the inputs; constants take whatever the others have."""
        moving = [value for value in node.inputs if _is_float(value) and not _is_initializer(value)]
        is_half = bool(moving) and all(value.dtype == _HALF for value in moving if value)
        return _HALF if is_half else _FLOAT

    def _unify(self, node: ir.Node, dtype: ir.DataType) -> None:
        for index, value in enumerate(node.inputs):
            if value is not None and _is_float(value) and value.dtype != dtype:
                if dtype == _HALF and node.op_type in _WEIGHT_OPERATORS:
                    _require_half_range(value, node)
                node.replace_input_with(index, self._as(value, dtype, before=node))

    def _as(self, value: ir.Value, dtype: ir.DataType, before: ir.Node | None) -> ir.Value:
        key = (value, dtype)
        if key not in self._copies:
            if _is_initializer(value):
                self._copies[key] = self._constant(value, dtype)
            else:
                self._copies[key] = self._cast(value, dtype, before)
        return self._copies[key]

    def _constant(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        tensor = value.const_value
        if tensor is None:
            raise UnsupportedError(f"the constant {value.name!r} has no value")
        array = np.clip(tensor.numpy(), -HALF_MAX, HALF_MAX)
        return add_constant(self._graph, f"{value.name}_half", array, dtype)

    def _cast(self, value: ir.Value, dtype: ir.DataType, before: ir.Node | None) -> ir.Value:
        name = f"{value.name}/{'half' if dtype == _HALF else 'float'}"
        node = node_of("Cast", [value], name, like=value, dtype=dtype, attributes={"to": dtype})
        if before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(before, node)
        return node.outputs[0]

    def restore_outputs(self) -> None:
        """Cast float16 graph outputs back to float32 under their own names."""
        for index, output in enumerate(self._graph.outputs):
            if output.dtype != _HALF:
                continue
            name = output.name
            output.name = f"{name}_half"
            restored = self._cast(output, _FLOAT, before=None)
            restored.name, restored.shape = name, output.shape
            self._graph.outputs[index] = restored


def _has_large_factor(node: ir.Node) -> bool:
    """Say whether a product or quotient has a constant past ±65,504 other than a mask's, which clamping would falsify."""
    if node.op_type not in ("Mul", "Div"):
        return False
    constants = [value.const_value for value in node.inputs if value and _is_float(value)]
    sizes = [np.abs(one.numpy()).max(initial=0.0) for one in constants if one is not None]
    return any(HALF_MAX < size < _MASK for size in sizes)


def _require_half_range(value: ir.Value, node: ir.Node) -> None:
    """Raise where a weight would overflow in float16."""
    if value.const_value is None or not _is_initializer(value):
        return
    largest = float(np.abs(value.const_value.numpy()).max(initial=0.0))
    # NaN too: a comparison with it is False.
    if not largest <= HALF_MAX:
        raise UnsupportedError(
            f"the weight {value.name!r} of node {node.name!r} reaches {largest:.3g}, past float16's "
            f"{HALF_MAX:g}; export its component in fp32"
        )


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype in (_FLOAT, _HALF)


def _is_initializer(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()
