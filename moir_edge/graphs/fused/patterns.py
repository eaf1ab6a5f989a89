"""Find the decomposed attention of a decoder: what `moir_edge.export.attention` was traced to, and a rotary embedding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

__all__ = [
    "Attention",
    "CachedAttention",
    "NotFusedError",
    "Rotation",
    "cached",
    "find_attentions",
    "find_rotation",
    "numbers",
    "producer",
    "sole",
]


class NotFusedError(Exception):
    """A graph that stays as it is; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The attention of one layer.

    Attributes:
        query: (batch, heads, sequence, head_dim), before the scale.
        key: (batch, kv_heads, head_dim, total), as the scores are computed with it.
        value: (batch, kv_heads, total, head_dim).
        mask: What is added to the scores, or None.
        heads: Query heads; 0 where there are as many as key heads.
        scale: Factor on the scores.
        softcap: Bound of the scores; 0 for none.
        output: (batch, sequence, heads, head_dim).
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    mask: ir.Value | None
    heads: int
    scale: float
    softcap: float
    output: ir.Value


@dataclass(frozen=True, kw_only=True)
class CachedAttention:
    """The attention of one layer of a decoder.

    Attributes:
        attention: Over keys and values of all tokens.
        key: (batch, kv_heads, sequence, head_dim), the new tokens' only.
        value: Like `key`.
        past: The graph's inputs with keys and values of the past.
        present: The graph's outputs with those of the new tokens behind.
        heads: Query heads.
        kv_heads: Key heads.
        head_dim: Width of a head.
    """

    attention: Attention
    key: ir.Value
    value: ir.Value
    past: tuple[ir.Value, ir.Value]
    present: tuple[ir.Value, ir.Value]
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """A rotary embedding of whole heads whose halves turn together.

    Attributes:
        value: (batch, heads, sequence, head_dim), before it.
        cosine: (batch, sequence, head_dim), the two halves alike.
        sine: Like `cosine`.
    """

    value: ir.Value
    cosine: ir.Value
    sine: ir.Value


def numbers(value: ir.Value | None) -> list[float] | None:
    """Return the elements of a small constant, or None."""
    tensor = None if value is None else value.const_value
    if tensor is None or tensor.size > 16:
        return None
    return [float(one) for one in np.asarray(tensor.numpy()).reshape(-1)]


def sole(value: ir.Value | None) -> float | None:
    """Return the number that a constant of one element holds, or None."""
    found = numbers(value)
    return found[0] if found is not None and len(found) == 1 else None


def find_attentions(graph: ir.Graph) -> list[Attention]:
    """Return the attention of each layer, in order.

    Raises:
        NotFusedError: A Softmax of the graph is of something else.
    """
    return [_attention(node) for node in graph if node.op_type == "Softmax"]


def _attention(softmax: ir.Node) -> Attention:
    scores, softcap, mask = softmax.inputs[0], 0.0, None
    node = _made(scores)
    if node.op_type == "Add":
        product, mask = node.inputs if _is_computed(node.inputs[0]) else node.inputs[::-1]
        node = _made(product)
    if node.op_type == "Mul" and _made(node.inputs[0]).op_type == "Tanh":
        softcap = _number(node.inputs[1])
        node = _made(_made(_made(node.inputs[0]).inputs[0], "Div").inputs[0])
    scored = _is(node, "MatMul")
    query, heads = _ungrouped(scored.inputs[0])
    query, scale = _unscaled(query)
    weighted = _is(_user(softmax.outputs[0]), "MatMul")
    output = _user(weighted.outputs[0])
    if output.op_type == "Reshape":
        output = _user(output.outputs[0])
    return Attention(
        query=query,
        key=_value(scored.inputs[1]),
        value=_value(weighted.inputs[1]),
        mask=mask,
        heads=heads,
        scale=scale,
        softcap=softcap,
        output=_is(output, "Transpose").outputs[0],
    )


def _is_computed(scores: ir.Value | None) -> bool:
    """Say whether a value is the scores and not the mask that is added to them."""
    return producer(scores, "MatMul") is not None or producer(scores, "Mul") is not None


def cached(attention: Attention) -> CachedAttention:
    """Return an attention with the parts of its cache.

    Raises:
        NotFusedError: It attends to something else than the tokens in the cache and the new ones.
    """
    keys = _value(_made(attention.key, "Transpose").inputs[0])
    past_key, new_key = _parts(keys)
    past_value, new_value = _parts(attention.value)
    kv_heads = _axis(past_key, 1)
    return CachedAttention(
        attention=attention,
        key=new_key,
        value=new_value,
        past=(past_key, past_value),
        present=(keys, attention.value),
        heads=attention.heads or kv_heads,
        kv_heads=kv_heads,
        head_dim=_axis(past_key, 3),
    )


def _ungrouped(value: ir.Value | None) -> tuple[ir.Value, int]:
    """Return the query in front of the Reshape that stacks the heads of a group, and how many heads there are."""
    node = _made(value)
    if node.op_type != "Reshape":
        return _value(value), 0
    stacked = _value(value)
    for user, _ in stacked.uses():
        for weighted in _users_behind_softmax(user):
            shape = (
                _made(_user(weighted).inputs[1]) if _user(weighted).op_type == "Reshape" else None
            )
            heads = None if shape is None else sole(shape.inputs[1])
            if heads:
                return _value(node.inputs[0]), int(heads)
    raise NotFusedError("the number of its query heads is not in the graph")


def _users_behind_softmax(scores: ir.Node) -> list[ir.Value]:
    """Return the weighted sums of values that come of the scores of a product."""
    node = scores
    for _ in range(6):
        node = _user(node.outputs[0])
        if node.op_type == "Softmax":
            return [_is(_user(node.outputs[0]), "MatMul").outputs[0]]
    return []


def _unscaled(query: ir.Value) -> tuple[ir.Value, float]:
    node = query.producer()
    if node is not None and node.op_type == "Mul":
        factor = sole(node.inputs[1])
        if factor is not None:
            return _value(node.inputs[0]), factor
    return query, 1.0


def _parts(whole: ir.Value | None) -> tuple[ir.Value, ir.Value]:
    """Return the past and the new part of the keys or values of a layer."""
    node = _is(_made(whole), "Concat")
    if len(node.inputs) != 2 or not _value(node.inputs[0]).is_graph_input():
        raise NotFusedError("a layer attends to something else than its cache")
    return _value(node.inputs[0]), _value(node.inputs[1])


def find_rotation(value: ir.Value) -> Rotation | None:
    """Return the rotary embedding that gave a value, or None where it is of another form."""
    node = value.producer()
    if node is None or node.op_type != "Add":
        return None
    for straight, crossed in (node.inputs, node.inputs[::-1]):
        found = _rotation(straight, crossed)
        if found is not None:
            return found
    return None


def _rotation(straight: ir.Value | None, crossed: ir.Value | None) -> Rotation | None:
    plain, turned = producer(straight, "Mul"), producer(crossed, "Mul")
    if plain is None or turned is None:
        return None
    joined = producer(turned.inputs[0], "Concat")
    if joined is None or len(joined.inputs) != 2:
        return None
    negated = producer(joined.inputs[0], "Neg")
    low, high = producer(joined.inputs[1], "Slice"), None
    if negated is not None:
        high = producer(negated.inputs[0], "Slice")
    source = plain.inputs[0]
    if low is None or high is None or {low.inputs[0], high.inputs[0]} != {source}:
        return None
    cosine, sine = producer(plain.inputs[1], "Unsqueeze"), producer(turned.inputs[1], "Unsqueeze")
    if cosine is None or sine is None or not _halves(low, high):
        return None
    if numbers(cosine.inputs[1]) != [1.0] or numbers(sine.inputs[1]) != [1.0]:
        return None
    return Rotation(
        value=_value(source), cosine=_value(cosine.inputs[0]), sine=_value(sine.inputs[0])
    )


def _halves(low: ir.Node, high: ir.Node) -> bool:
    """Say whether two slices of the last axis are its first half and the rest."""
    starts, ends = numbers(low.inputs[1]), numbers(low.inputs[2])
    begins, axes = numbers(high.inputs[1]), (numbers(low.inputs[3]), numbers(high.inputs[3]))
    return starts == [0.0] and ends == begins and axes in (([3.0], [3.0]), ([-1.0], [-1.0]))


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Return the node that gives a value if it is of a type, or None."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type else None


def _value(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise NotFusedError("an input that its attention needs is missing")
    return value


def _made(value: ir.Value | None, op_type: str | None = None) -> ir.Node:
    node = _value(value).producer()
    if node is None:
        raise NotFusedError("its attention reads an input of the graph in place of a result")
    return node if op_type is None else _is(node, op_type)


def _is(node: ir.Node, op_type: str) -> ir.Node:
    if node.op_type != op_type:
        raise NotFusedError(f"its attention has {node.op_type} where {op_type} was expected")
    return node


def _user(value: ir.Value) -> ir.Node:
    users = [node for node, _ in value.uses()]
    if len(users) != 1:
        raise NotFusedError(f"its attention has a value that {len(users)} operators read")
    return users[0]


def _number(value: ir.Value | None) -> float:
    found = sole(value)
    if found is None:
        raise NotFusedError("a number of its attention is not a constant")
    return found


def _axis(value: ir.Value, axis: int) -> int:
    size = None if value.shape is None else value.shape[axis]
    if not isinstance(size, int):
        raise NotFusedError(f"{value.name} has no fixed size")
    return size
