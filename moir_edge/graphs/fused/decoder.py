"""Lower a decoder to ONNX Runtime's GroupQueryAttention, whose cache lies in one buffer that each step writes into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from moir_edge.graphs.fused.building import (
    DOMAIN,
    finish,
    flat,
    insert_after,
    ints,
    linear,
    maker,
    put_heads,
    source,
)
from moir_edge.graphs.fused.last_token import keep_last_tokens
from moir_edge.graphs.fused.norms import fuse_norms
from moir_edge.graphs.fused.patterns import (
    CachedAttention,
    NotFusedError,
    Rotation,
    cached,
    find_attentions,
    find_rotation,
    producer,
)
from moir_edge.graphs.fused.tables import rotary_tables

__all__ = ["fuse_decoder"]

_WINDOW = "window"
# GroupQueryAttention takes heads whose width is a multiple of the first, and turns those of the second.
_WIDTH_STEP, _TURNED_STEP = 8, 16


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
    regions = [cached(one) for one in find_attentions(graph)]
    if len(regions) != len(windows):
        raise NotFusedError(f"{len(regions)} of its {len(windows)} layers are of the expected form")
    for region in regions:
        if region.head_dim % _WIDTH_STEP:
            raise NotFusedError(
                f"its heads are {region.head_dim} wide, not a multiple of {_WIDTH_STEP}"
            )
    lengths = _new_inputs(graph)
    rotary = _Rotary(graph, context_length)
    for region, window in zip(regions, windows, strict=True):
        _replace(graph, region, window, lengths[:2], rotary)
    keep_last_tokens(graph, lengths[2])
    fuse_norms(graph)
    finish(model)
    _drop_inputs(graph)


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
        """Return (context, head_dim / 2) tables; None where there are none, see `rotary_tables`."""
        key = rotation.cosine, rotation.sine
        if key not in self._written:
            self._written[key] = rotary_tables(self._graph, *key, self._context_length, head_dim)
        return self._written[key]

    def half(self, table: ir.Value, head_dim: int) -> ir.Value:
        """Return (batch, sequence, head_dim / 2) of (batch, sequence, head_dim)."""
        if table not in self._halves:
            bounds = [ints(self._graph, f"half_{at}", [at]) for at in (0, head_dim // 2, -1)]
            node = ir.node("Slice", inputs=[table, *bounds])
            insert_after(self._graph, table, node)
            self._halves[table] = node.outputs[0]
        return self._halves[table]


def _replace(
    graph: ir.Graph,
    region: CachedAttention,
    window: int,
    lengths: Sequence[ir.Value],
    rotary: _Rotary,
) -> None:
    """Put one GroupQueryAttention in the place of a layer's attention."""
    attention, head_dim, kv_heads = region.attention, region.head_dim, region.kv_heads
    anchor = maker(attention.output)
    attributes: dict[str, Any] = {
        "num_heads": region.heads,
        "kv_num_heads": kv_heads,
        "scale": attention.scale,
    }
    if attention.softcap:
        attributes["softcap"] = attention.softcap
    if window:
        attributes["local_window_size"] = window
    packed = _packed(region, rotary)
    if packed is None:
        heads = (region.heads, kv_heads, kv_heads)
        values = (attention.query, region.key, region.value)
        rows = [
            _rows(graph, anchor, one, count, head_dim, rotary)
            for one, count in zip(values, heads, strict=True)
        ]
        inputs: list[ir.Value | None] = [*rows, *region.past, *lengths]
    else:
        whole, *tables = packed
        inputs = [whole, None, None, *region.past, *lengths, *tables, _positions(graph)]
        attributes["do_rotary"] = 1
    node = ir.node(
        "GroupQueryAttention",
        inputs=inputs,
        domain=DOMAIN,
        attributes=attributes,
        num_outputs=3,
    )
    graph.insert_before(anchor, node)
    for old, new in zip(region.present, node.outputs[1:], strict=True):
        _become_output(graph, old, new)
    for past in region.past:
        past.shape = _windowed(past.shape)
    put_heads(graph, attention.output, node.outputs[0], [0, 0, region.heads, head_dim])


def _packed(region: CachedAttention, rotary: _Rotary) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """Return queries, keys and values in one value with the rotary tables, or None where they come apart."""
    query, key = find_rotation(region.attention.query), find_rotation(region.key)
    if query is None or key is None or (query.cosine, query.sine) != (key.cosine, key.sine):
        return None
    parts = [linear(value) for value in (query.value, key.value, region.value)]
    split = producer(parts[0], "Split")
    if split is None or parts != list(split.outputs) or region.head_dim % _TURNED_STEP:
        return None
    tables = rotary.written(query, region.head_dim)
    return None if tables is None else (source(split), *tables)


def _positions(graph: ir.Graph) -> ir.Value:
    """Return the input that tells each token's place in the tables: a prompt may have gaps where image tokens were dropped."""
    return next(value for value in graph.inputs if value.name == "position_ids")


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
        return flat(graph, anchor, value)
    inner = flat(graph, anchor, rotation.value)
    tables = [rotary.half(table, head_dim) for table in (rotation.cosine, rotation.sine)]
    node = ir.node("RotaryEmbedding", inputs=[inner, *tables], attributes={"num_heads": heads})
    graph.insert_before(anchor, node)
    return node.outputs[0]
