"""Recognize a graph `embedding` that is nothing but a look-up, and say where its table lies in the written files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from moir_edge.bundle import TableEntry, TensorPlace

__all__ = ["token_table"]

_Type = Literal["float32", "float16", "bfloat16", "int8"]
_TYPES: dict[int, _Type] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.INT8: "int8",
}
_HIDDEN_LAST = [1, 2, 0]


def token_table(graph: Path) -> TableEntry | None:
    """Return where a written graph `embedding` looks its tokens up.

    Args:
        graph: Its file, beside its weights.

    Returns:
        None where it computes more than a look-up with widening, one scale per token and one constant factor in
        float32, or where a weight is so small that it lies in the graph itself.
    """
    model = onnx.load(graph, load_external_data=False)
    return _Reader(model.graph).entry()


class _Reader:
    """Follows a graph from its output back to the table.

    Args:
        graph: Without weights that lie in other files.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._makers: dict[str, onnx.NodeProto] = {
            name: node for node in graph.node for name in node.output
        }
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._seen = 0

    def entry(self) -> TableEntry | None:
        """Return the table, or None; see `token_table`."""
        factor, value = self._factor(self._graph.output[0].name)
        value = self._through("Cast", value, to=TensorProto.FLOAT)
        moved = self._through("Transpose", value, perm=_HIDDEN_LAST)
        gather = self._maker("Gather", moved)
        is_column = moved != value
        if gather is None or _attributes(gather).get("axis", 0) != int(is_column):
            return None
        if gather.input[1] != self._graph.input[0].name:
            return None
        places = self._places(gather.input[0], is_column=is_column)
        if places is None or self._seen != len(self._graph.node):
            return None
        return TableEntry(values=places[0], scale=places[1], factor=factor)

    def _places(
        self, table: str, *, is_column: bool
    ) -> tuple[TensorPlace, TensorPlace | None] | None:
        """Return where values and scale lie; values of the other kind, or in the graph, are not described."""
        if not is_column:
            values = self._place(table)
            return None if values is None or values.dtype == "int8" else (values, None)
        widen = self._maker("DequantizeLinear", table)
        if widen is None or len(widen.input) != 2 or _attributes(widen) != {"axis": 1}:
            return None
        values, scale = self._place(widen.input[0]), self._place(widen.input[1])
        if values is None or scale is None or values.dtype != "int8":
            return None
        return values, scale

    def _maker(self, op_type: str, value: str) -> onnx.NodeProto | None:
        """Return the node that makes a value if it is of a type, and count it."""
        node = self._makers.get(value)
        if node is None or node.op_type != op_type or node.domain not in ("", "ai.onnx"):
            return None
        self._seen += 1
        return node

    def _through(self, op_type: str, value: str, **attributes: object) -> str:
        """Return the input of the node that makes a value, or the value where another node does."""
        node = self._makers.get(value)
        if node is None or _attributes(node) != attributes:
            return value
        return value if self._maker(op_type, value) is None else node.input[0]

    def _factor(self, value: str) -> tuple[float | None, str]:
        """Return the number that a product by a constant multiplies with, and the other side of it."""
        node = self._makers.get(value)
        if node is None or node.op_type != "Mul":
            return None, value
        for one, other in (node.input, reversed(list(node.input))):
            number = self._number(one)
            if number is not None and self._maker("Mul", value):
                return number, other
        return None, value

    def _number(self, name: str) -> float | None:
        """Return a float32 constant of one number."""
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) != 1:
            return None
        return float(numpy_helper.to_array(tensor).reshape(()))

    def _place(self, name: str) -> TensorPlace | None:
        """Return where a weight lies in a file."""
        tensor = self._constants.get(name)
        if tensor is None or not tensor.external_data or tensor.data_type not in _TYPES:
            return None
        fields = {entry.key: entry.value for entry in tensor.external_data}
        return TensorPlace(
            file=fields["location"],
            offset=int(fields.get("offset", 0)),
            dtype=_TYPES[tensor.data_type],
            shape=tuple(tensor.dims),
        )


def _attributes(node: onnx.NodeProto) -> dict[str, object]:
    return dict(_settings(node))


def _settings(node: onnx.NodeProto) -> Iterator[tuple[str, object]]:
    for attribute in node.attribute:
        yield attribute.name, cast(object, onnx.helper.get_attribute_value(attribute))
