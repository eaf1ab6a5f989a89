"""Lower the attention of a vision tower to ONNX Runtime's MultiHeadAttention."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from moir_edge.graphs.fused.building import DOMAIN, finish, flat, flat_key, maker, put_heads
from moir_edge.graphs.fused.norms import fuse_norms
from moir_edge.graphs.fused.patterns import Attention, NotFusedError, find_attentions

__all__ = ["fuse_vision"]


def fuse_vision(model: ir.Model) -> None:
    """Replace the attention of each layer.

    Args:
        model: A vision tower as `moir_edge.export` writes it; edited in place. Its inputs and outputs stay.

    Raises:
        NotFusedError: A layer is of a form that the operator cannot compute; `model` is then of no use.
    """
    common.ShapeInferencePass()(model)  # the file has no shapes inside
    graph = model.graph
    attentions = find_attentions(graph)
    if not attentions:
        raise NotFusedError("it has no attention")
    for attention in attentions:
        _replace(graph, attention)
    fuse_norms(graph)
    finish(model)


def _replace(graph: ir.Graph, attention: Attention) -> None:
    if attention.heads or attention.softcap:
        raise NotFusedError("its attention has grouped heads or a soft-cap")
    heads, head_dim = _heads(attention)
    anchor = maker(attention.output)
    rows = [
        flat(graph, anchor, attention.query),
        flat_key(graph, anchor, attention.key),
        flat(graph, anchor, attention.value),
    ]
    node = ir.node(
        "MultiHeadAttention",
        inputs=[*rows, *([None, None, attention.mask] if attention.mask is not None else [])],
        domain=DOMAIN,
        attributes={"num_heads": heads, "scale": attention.scale},
    )
    graph.insert_before(anchor, node)
    put_heads(graph, attention.output, node.outputs[0], [0, 0, heads, head_dim])


def _heads(attention: Attention) -> tuple[int, int]:
    """Return how many heads there are, and their width."""
    for value in (attention.query, attention.value):
        shape = value.shape
        if shape is not None and len(shape) == 4:
            heads, head_dim = shape[1], shape[3]
            if isinstance(heads, int) and isinstance(head_dim, int):
                return heads, head_dim
    raise NotFusedError("its attention has no fixed number of heads")
