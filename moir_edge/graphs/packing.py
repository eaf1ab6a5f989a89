"""Join linear layers that read the same value into one product, whose result is split.

One product of three times the width has less to launch and to wait for than three: queries, keys and values of an attention, and the
two halves of a gated layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from moir_edge.graphs.editing import constant, initializer, remove_unused
from moir_edge.graphs.stored import JoinedTensor

__all__ = ["pack_products"]

_WEIGHT_MAKERS = ("DequantizeLinear", "Cast")


@dataclass(frozen=True, kw_only=True)
class _Linear:
    """A product with its bias.

    Attributes:
        product: The MatMul.
        maker: The node that makes its weight of stored numbers; None for a float32 weight.
        stored: The constants that `maker` reads, or the weight alone.
        bias: (out,), or None.
        result: The value that the others read.
        width: Outputs.
    """

    product: ir.Node
    maker: ir.Node | None
    stored: tuple[ir.Value, ...]
    bias: ir.Value | None
    result: ir.Value
    width: int

    @property
    def form(self) -> tuple[object, ...]:
        """Equal for layers whose weights can be joined."""
        attributes: list[tuple[str, object]] = []
        if self.maker is not None:
            attributes = [(key, one.value) for key, one in self.maker.attributes.items()]
        kinds = [(one.dtype, _rank(one)) for one in self.stored]
        made = None if self.maker is None else self.maker.op_type
        return made, tuple(attributes), tuple(kinds), self.bias is None


def pack_products(model: ir.Model) -> None:
    """Join every group of two or more linear layers of one form that read the same value.

    Args:
        model: Edited in place, quantized or not; weights are (in, out), scales and zero points of blocks and columns go with them.
    """
    graph = model.graph
    for group in list(_groups(graph)):
        _join(graph, group)
    remove_unused(graph)


def _groups(graph: ir.Graph) -> Iterator[list[_Linear]]:
    readers: dict[ir.Value, list[_Linear]] = {}
    for node in graph:
        found = _linear(node)
        if found is not None and node.inputs[0] is not None:
            readers.setdefault(node.inputs[0], []).append(found)
    for linears in readers.values():
        if len(linears) > 1 and len({one.form for one in linears}) == 1:
            yield linears


def _linear(node: ir.Node) -> _Linear | None:
    weight = node.inputs[1] if node.op_type == "MatMul" else None
    if weight is None:
        return None
    maker = weight.producer()
    stored = (weight,) if maker is None else tuple(one for one in maker.inputs if one is not None)
    if maker is not None and maker.op_type not in _WEIGHT_MAKERS:
        return None
    if any(one.const_value is None or one.is_graph_input() for one in stored):
        return None
    width = _columns(stored[0])
    # A weight, a scale or a zero point for the whole matrix cannot stand for a part of a wider one.
    if width is None or any(_last(one) != width for one in stored):
        return None
    bias, result = _bias(node)
    return _Linear(product=node, maker=maker, stored=stored, bias=bias, result=result, width=width)


def _bias(product: ir.Node) -> tuple[ir.Value | None, ir.Value]:
    """Return the bias that is added to a product and the sum, or None and the product."""
    value = product.outputs[0]
    users = [node for node, _ in value.uses()]
    if len(users) != 1 or users[0].op_type != "Add" or value.is_graph_output():
        return None, value
    for one in users[0].inputs:
        if one is not None and one.const_value is not None and _rank(one) == 1:
            return one, users[0].outputs[0]
    return None, value


def _columns(value: ir.Value) -> int | None:
    return _last(value) if _rank(value) == 2 else None


def _rank(value: ir.Value) -> int:
    tensor = value.const_value
    return -1 if tensor is None else len(tensor.shape)


def _last(value: ir.Value) -> int | None:
    tensor = value.const_value
    shape = () if tensor is None else tensor.shape.numpy()
    return int(shape[-1]) if shape else None


def _join(graph: ir.Graph, linears: Sequence[_Linear]) -> None:
    first = linears[0]
    stored = [_joined(graph, parts) for parts in zip(*(one.stored for one in linears), strict=True)]
    weight = stored[0]
    anchor = first.product
    if first.maker is not None:
        maker = ir.node(first.maker.op_type, inputs=stored, attributes=first.maker.attributes)
        maker.outputs[0].type = first.maker.outputs[0].type
        graph.insert_before(anchor, maker)
        weight = maker.outputs[0]
    product = ir.node("MatMul", inputs=[first.product.inputs[0], weight], name=str(stored[0].name))
    graph.insert_before(anchor, product)
    whole = product.outputs[0]
    if first.bias is not None:
        bias = _joined(graph, [one.bias for one in linears if one.bias is not None])
        added = ir.node("Add", inputs=[whole, bias])
        graph.insert_before(anchor, added)
        whole = added.outputs[0]
    sizes = _sizes(graph, [one.width for one in linears])
    split = ir.node(
        "Split", inputs=[whole, sizes], attributes={"axis": -1}, num_outputs=len(linears)
    )
    graph.insert_before(anchor, split)
    for one, part in zip(linears, split.outputs, strict=True):
        part.type, part.shape = one.result.type, one.result.shape
        one.result.replace_all_uses_with(part, replace_graph_outputs=True)
    for one in linears:
        _remove(graph, one)


def _remove(graph: ir.Graph, linear: _Linear) -> None:
    last = linear.result.producer()
    for node in (last, linear.product, linear.maker):
        if (
            node is not None
            and node.graph is not None
            and not any(out.uses() for out in node.outputs)
        ):
            graph.remove(node, safe=True)


def _sizes(graph: ir.Graph, widths: Sequence[int]) -> ir.Value:
    name = f"split.{'.'.join(map(str, widths))}"
    if name not in graph.initializers:
        array: npt.NDArray[Any] = np.array(widths, np.int64)
        graph.initializers[name] = constant(name, array, ir.DataType.INT64)
    return graph.initializers[name]


def _joined(graph: ir.Graph, parts: Sequence[ir.Value]) -> ir.Value:
    """Add the constants side by side as one to the graph."""
    name = _name([str(part.name) for part in parts])
    tensors = [part.const_value for part in parts if part.const_value is not None]
    value = initializer(name, JoinedTensor(tensors, name=name))
    graph.initializers[name] = value
    return value


def _name(names: Sequence[str]) -> str:
    """Return ``layers.0.q_proj+k_proj_int4`` of ``layers.0.q_proj_int4`` and ``layers.0.k_proj_int4``."""
    parts = [name.rpartition(".") for name in names]
    prefixes = {prefix for prefix, _, _ in parts}
    if len(prefixes) > 1 or "" in prefixes:
        return "+".join(names)
    endings = {last.rpartition("_int")[2] for _, _, last in parts}
    ending = (
        f"_int{endings.pop()}"
        if len(endings) == 1 and all("_int" in name for name in names)
        else ""
    )
    layers = [last.removesuffix(ending) for _, _, last in parts]
    return f"{prefixes.pop()}.{'+'.join(layers)}{ending}"
