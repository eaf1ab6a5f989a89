"""Make constants and nodes of a graph, and drop constants that nothing reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = [
    "add_constant",
    "computed_constant",
    "constant",
    "initializer",
    "node_of",
    "remove_unused",
    "take_over",
]


def constant(name: str, array: npt.NDArray[Any] | np.generic, dtype: ir.DataType) -> ir.Value:
    """Return an initializer that belongs to no graph yet; an array of the right type is not copied.

    Numbers of four bits are packed, two to a byte, as they are stored.
    """
    numbers = np.asarray(array).astype(dtype.numpy(), copy=False)
    tensor: ir.TensorProtocol = ir.Tensor(numbers, dtype=dtype, name=name)
    if dtype.bitwidth == 4:
        packed = np.frombuffer(tensor.tobytes(), np.uint8)
        tensor = ir.PackedTensor(packed, dtype, shape=numbers.shape, name=name)
    return initializer(name, tensor)


def computed_constant(
    name: str, shape: Sequence[int], compute: Callable[[], npt.NDArray[np.float32]]
) -> ir.Value:
    """Return a float32 initializer whose numbers are computed each time that they are asked for, and not kept."""
    tensor = ir.LazyTensor(
        lambda: ir.Tensor(compute(), dtype=ir.DataType.FLOAT, name=name),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(shape),
        name=name,
    )
    return initializer(name, tensor)


def initializer(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Return an initializer of a tensor's type and shape that belongs to no graph yet."""
    return ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )


def add_constant(
    graph: ir.Graph, name: str, array: npt.NDArray[Any] | np.generic, dtype: ir.DataType
) -> ir.Value:
    """Add an initializer to a graph, in place of one of the same name, and return it."""
    value = graph.initializers[name] = constant(name, array, dtype)
    return value


def node_of(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    *,
    output: str | None = None,
    like: ir.Value | None = None,
    dtype: ir.DataType = ir.DataType.FLOAT,
    attributes: Mapping[str, Any] | None = None,
) -> ir.Node:
    """Return a node with one output, which the caller puts into a graph.

    Args:
        op_type: A standard operator.
        inputs: What it reads.
        name: Of the node.
        output: Name of the output; None takes the node's.
        like: A value whose shape the output has; None leaves the shape open.
        dtype: Type of the output.
        attributes: Of the operator.
    """
    node = ir.node(op_type, inputs=inputs, attributes=attributes or {}, name=name)
    made = node.outputs[0]
    made.name, made.type = output or name, ir.TensorType(dtype)
    made.shape = None if like is None else like.shape
    return node


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Put `new` wherever `old` stands, as a graph output too, under the same name."""
    new.type, new.shape = old.type, old.shape
    name, old.name = old.name, None
    new.name = name
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def remove_unused(graph: ir.Graph, names: Iterable[str] | None = None) -> None:
    """Drop initializers that nothing reads.

    Args:
        graph: Edited in place.
        names: Those to look at; None for all.
    """
    for name in list(graph.initializers if names is None else names):
        value = graph.initializers.get(name)
        if value is not None and not value.uses() and not value.is_graph_output():
            graph.initializers.pop(name)
