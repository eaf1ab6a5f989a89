"""Lower a decoder to ONNX Runtime's GroupQueryAttention, whose cache lies in one buffer that each step writes into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from moir_edge.graphs.editing import add_constant, constant, remove_unused
from moir_edge.graphs.fused.norms import fuse_norms
from moir_edge.graphs.fused.patterns import (
    NotFusedError,
    Region,
    Rotation,
    find_regions,
    find_rotation,
    producer,
)
from moir_edge.graphs.fused.tables import rotary_tables
from moir_edge.graphs.naming import number_values

__all__ = ["OPSET", "fuse_decoder"]

OPSET = 23  # RotaryEmbedding's first
_DOMAIN = "com.microsoft"
_WINDOW = "window"


def fuse_decoder(model: ir.Model, *, windows: Sequence[int], context_length: int) -> None:
    """Replace the attention of each layer.

    Rows are padded on the right in place of the left, so that each row's tokens stand at the start of its cache. The input
    `attention_mask` goes; in its place stand `seqlens_k` (batch,) int32, each row's tokens less one, cache included,
    `total_sequence_length` () int32, the longest row's, and `last_token` (batch, 1) int64, where a row's last token is among
    the new ones. Keys and values, (batch, kv_heads, window, head_dim), go in and come out in one buffer.

    Args:
        model: A decoder as `moir_edge.export` writes it; edited in place.
        windows: How many tokens each layer looks back, itself included; 0 for all.
        context_length: Tokens that a row can have.

    Raises:
        NotFusedError: A layer is of a form that the operator cannot compute; `model` is then of no use.
    """
    graph = model.graph
    regions = find_regions(graph)
    if len(regions) != len(windows):
        raise NotFusedError(f"{len(regions)} of its {len(windows)} layers are of the expected form")
    lengths = _new_inputs(graph)
    rotary = _Rotary(graph, context_length)
    for region, window in zip(regions, windows, strict=True):
        _replace(graph, region, window, lengths[:2], rotary)
    _take_last(graph, lengths[2])
    fuse_norms(graph)
    for name, _ in _PASSES:
        model = _run(model, name)
    _drop_inputs(graph)
    model.opset_imports[""] = OPSET
    model.opset_imports[_DOMAIN] = 1
    remove_unused(graph)
    number_values(model)


_PASSES = (
    ("RemoveUnusedNodesPass", None),
    ("CommonSubexpressionEliminationPass", None),
    ("RemoveUnusedNodesPass", None),
)


def _run(model: ir.Model, name: str) -> ir.Model:
    made: ir.Model = getattr(common, name)()(model).model
    return made


def _new_inputs(graph: ir.Graph) -> tuple[ir.Value, ir.Value, ir.Value]:
    seqlens = ir.val("seqlens_k", ir.DataType.INT32, ["batch"])
    total = ir.val("total_sequence_length", ir.DataType.INT32, [])
    last = ir.val("last_token", ir.DataType.INT64, ["batch", 1])
    places = [at for at, value in enumerate(graph.inputs) if value.name == "attention_mask"]
    at = places[0] + 1 if places else len(graph.inputs)
    for offset, value in enumerate((seqlens, total, last)):
        graph.inputs.insert(at + offset, value)
    return seqlens, total, last


def _drop_inputs(graph: ir.Graph) -> None:
    for value in list(graph.inputs):
        if not value.uses() and not str(value.name).startswith("past_key_values"):
            if value.name not in ("attention_mask", "position_ids"):
                raise NotFusedError(f"its input {value.name} decides which tokens see each other")
            graph.inputs.remove(value)


class _Rotary:
    """The tables of rotary embeddings, for all layers that share one.

    Args:
        graph: Gets constants and nodes.
        context_length: Tokens that a row can have.
    """

    def __init__(self, graph: ir.Graph, context_length: int) -> None:
        self._graph, self._context_length = graph, context_length
        self._halves: dict[ir.Value, ir.Value] = {}
        self._written: dict[tuple[ir.Value, ir.Value], tuple[ir.Value, ir.Value] | None] = {}

    def written(self, rotation: Rotation, head_dim: int) -> tuple[ir.Value, ir.Value] | None:
        """Return (context, head_dim / 2) constants; None where more than the place in a row decides the angle."""
        key = rotation.cosine, rotation.sine
        if key not in self._written:
            tables = rotary_tables(*key, self._context_length, head_dim)
            self._written[key] = None if tables is None else self._added(tables)
        return self._written[key]

    def _added(self, tables: tuple[Any, Any]) -> tuple[ir.Value, ir.Value]:
        at = len(self._written)
        cosine, sine = (
            add_constant(self._graph, f"rotary.{at}.{name}", table, ir.DataType.FLOAT)
            for name, table in zip(("cos", "sin"), tables, strict=True)
        )
        return cosine, sine

    def half(self, table: ir.Value, head_dim: int) -> ir.Value:
        """Return (batch, sequence, head_dim / 2) of (batch, sequence, head_dim)."""
        if table not in self._halves:
            bounds = [
                _ints(self._graph, f"half_{at}_{head_dim}", [at]) for at in (0, head_dim // 2, -1)
            ]
            node = ir.node("Slice", inputs=[table, *bounds])
            _after(self._graph, table, node)
            self._halves[table] = node.outputs[0]
        return self._halves[table]


def _after(graph: ir.Graph, value: ir.Value, node: ir.Node) -> None:
    maker = value.producer()
    if maker is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(maker, node)


def _ints(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    key = f"fused.{name}"
    if key not in graph.initializers:
        graph.initializers[key] = constant(key, np.array(numbers, np.int64), ir.DataType.INT64)
    return graph.initializers[key]


def _replace(
    graph: ir.Graph, region: Region, window: int, lengths: Sequence[ir.Value], rotary: _Rotary
) -> None:
    """Put one GroupQueryAttention in the place of a layer's attention."""
    head_dim = _head_dim(region)
    kv_heads = _kv_heads(region)
    anchor = _node(region.output)
    attributes: dict[str, Any] = {
        "num_heads": region.heads,
        "kv_num_heads": kv_heads,
        "scale": region.scale,
    }
    if region.softcap:
        attributes["softcap"] = region.softcap
    if window:
        attributes["local_window_size"] = window
    packed = _packed(graph, region, head_dim, rotary)
    if packed is None:
        heads = (region.heads, kv_heads, kv_heads)
        values = (region.query, region.key, region.value)
        rows = [
            _rows(graph, anchor, one, count, head_dim, rotary)
            for one, count in zip(values, heads, strict=True)
        ]
        inputs: list[ir.Value | None] = [*rows, *region.past, *lengths]
    else:
        whole, *tables = packed
        inputs = [whole, None, None, *region.past, *lengths, *tables]
        attributes["do_rotary"] = 1
    node = ir.node(
        "GroupQueryAttention",
        inputs=inputs,
        domain=_DOMAIN,
        attributes=attributes,
        num_outputs=3,
    )
    graph.insert_before(anchor, node)
    for old, new in zip(region.present, node.outputs[1:], strict=True):
        _become_output(graph, old, new)
    for past in region.past:
        past.shape = _windowed(past.shape)
    _put(graph, region.output, node.outputs[0], region.heads, head_dim)


def _packed(
    graph: ir.Graph, region: Region, head_dim: int, rotary: _Rotary
) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """Return queries, keys and values in one value with the rotary tables, or None where they come apart."""
    query, key = find_rotation(region.query), find_rotation(region.key)
    if query is None or key is None or (query.cosine, query.sine) != (key.cosine, key.sine):
        return None
    parts = [_linear(value) for value in (query.value, key.value, region.value)]
    split = producer(parts[0], "Split")
    if split is None or parts != list(split.outputs):
        return None
    tables = rotary.written(query, head_dim)
    return None if tables is None else (_input(split), *tables)


def _linear(value: ir.Value) -> ir.Value | None:
    """Return the linear layer's result that was turned to (batch, heads, sequence, head_dim), or None."""
    transposed = producer(value, "Transpose")
    reshaped = None if transposed is None else producer(transposed.inputs[0], "Reshape")
    inner = None if reshaped is None else reshaped.inputs[0]
    return inner if inner is not None and _is_product(inner) else None


def _windowed(shape: ir.Shape | None) -> ir.Shape:
    if shape is None:
        raise NotFusedError("its cache has no shape")
    return ir.Shape([shape[0], shape[1], _WINDOW, shape[3]])


def _become_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let a graph output be `new`; what else reads `old` goes with the old attention."""
    at = next(index for index, value in enumerate(graph.outputs) if value is old)
    new.type, new.shape = old.type, _windowed(old.shape)
    name, old.name = old.name, None
    new.name = name
    graph.outputs[at] = new


def _rows(
    graph: ir.Graph, anchor: ir.Node, value: ir.Value, heads: int, head_dim: int, rotary: _Rotary
) -> ir.Value:
    """Return (batch, sequence, heads × head_dim) of (batch, heads, sequence, head_dim), its rotation as one operator."""
    rotation = find_rotation(value)
    if rotation is None:
        return _flat(graph, anchor, value)
    inner = _flat(graph, anchor, rotation.value)
    tables = [rotary.half(table, head_dim) for table in (rotation.cosine, rotation.sine)]
    node = ir.node("RotaryEmbedding", inputs=[inner, *tables], attributes={"num_heads": heads})
    graph.insert_before(anchor, node)
    return node.outputs[0]


def _flat(graph: ir.Graph, anchor: ir.Node, value: ir.Value) -> ir.Value:
    linear = _linear(value)
    if linear is not None:
        return linear
    maker = producer(value, "Transpose")
    if maker is None:
        maker = ir.node("Transpose", inputs=[value], attributes={"perm": [0, 2, 1, 3]})
        graph.insert_before(anchor, maker)
        inner = maker.outputs[0]
    else:
        inner = _input(maker)
    node = ir.node("Reshape", inputs=[inner, _ints(graph, "flat", [0, 0, -1])])
    graph.insert_before(anchor, node)
    return node.outputs[0]


def _is_product(value: ir.Value) -> bool:
    """Say whether a value is a linear layer's result, (batch, sequence, width)."""
    node = value.producer()
    if node is not None and node.op_type == "Add":
        makers = [one.producer() for one in node.inputs if one is not None]
        return any(one is not None and one.op_type == "MatMul" for one in makers)
    return node is not None and node.op_type in ("MatMul", "Split")


def _put(graph: ir.Graph, old: ir.Value, rows: ir.Value, heads: int, head_dim: int) -> None:
    """Give the result of attention to the users of the old one, (batch, sequence, heads, head_dim)."""
    for user, _ in list(old.uses()):
        if user.op_type == "Reshape" and _joins_heads(user):
            user.outputs[0].replace_all_uses_with(rows)
    if old.uses() and any(
        user.op_type != "Reshape" or not _joins_heads(user) for user, _ in old.uses()
    ):
        shape = _ints(graph, f"heads_{heads}_{head_dim}", [0, 0, heads, head_dim])
        node = ir.node("Reshape", inputs=[rows, shape])
        graph.insert_after(_node(rows), node)
        old.replace_all_uses_with(node.outputs[0])


def _joins_heads(reshape: ir.Node) -> bool:
    """Say whether a Reshape gives (batch, sequence, width)."""
    shape = reshape.inputs[1]
    maker = None if shape is None else shape.producer()
    if maker is not None:
        return maker.op_type == "Concat" and len(maker.inputs) == 3
    tensor = None if shape is None else shape.const_value
    return tensor is not None and tensor.size == 3


def _take_last(graph: ir.Graph, last: ir.Value) -> None:
    """Go on with each row's last token behind the last layer's attention: nothing else reaches the logits."""
    attention = [node for node in graph if node.op_type == "GroupQueryAttention"][-1]
    below = _below(attention.outputs[0])
    order = list(graph)
    outside: dict[ir.Value, None] = {attention.outputs[0]: None}
    for node in order:
        if node in below:
            for value in node.inputs:
                if value is not None and _varies(value) and value.producer() not in below:
                    outside[value] = None
    shapes = [value for value in outside if _is_size(value)]
    if shapes:
        raise NotFusedError("what follows its last attention depends on the number of tokens")
    for value in outside:
        node = ir.node(
            "GatherND", inputs=[value, _indices(graph, last)], attributes={"batch_dims": 1}
        )
        _after(graph, value, node)
        picked = ir.node("Unsqueeze", inputs=[node.outputs[0], _ints(graph, "one", [1])])
        graph.insert_after(node, picked)
        for user, index in list(value.uses()):
            if user in below:
                user.replace_input_with(index, picked.outputs[0])


def _indices(graph: ir.Graph, last: ir.Value) -> ir.Value:
    del graph
    return last


def _below(value: ir.Value) -> set[ir.Node]:
    found: set[ir.Node] = set()
    front = [value]
    while front:
        for user, _ in front.pop().uses():
            if user not in found:
                found.add(user)
                front.extend(user.outputs)
    return found


def _varies(value: ir.Value) -> bool:
    return not value.is_initializer() and value.const_value is None and not _is_weight(value)


def _is_weight(value: ir.Value) -> bool:
    """Say whether a value is computed of constants alone, as a weight that is widened is."""
    node = value.producer()
    if value.is_graph_input() or node is None:
        return value.is_initializer()
    return all(one is None or _is_weight(one) for one in node.inputs)


def _is_size(value: ir.Value) -> bool:
    node = value.producer()
    return (
        node is not None
        and node.op_type in ("Shape", "Squeeze", "Concat", "Range")
        and value.name is None
    )


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    if value is None:
        raise NotFusedError(f"{node.op_type} has no input")
    return value


def _node(value: ir.Value) -> ir.Node:
    node = value.producer()
    if node is None:
        raise NotFusedError(f"{value.name} is not computed in the graph")
    return node


def _head_dim(region: Region) -> int:
    shape = region.past[0].shape
    if shape is None or not isinstance(shape[3], int):
        raise NotFusedError("its heads have no fixed width")
    return int(shape[3])


def _kv_heads(region: Region) -> int:
    shape = region.past[0].shape
    if shape is None or not isinstance(shape[1], int):
        raise NotFusedError("its cache has no fixed number of heads")
    return int(shape[1])
