"""Rewrite the graph `decoder` for OpenVINO: the cache becomes state of a request, attention one fused operation per layer.

The plugin for CPUs keeps keys and values in one growing buffer where it meets a pattern: the state, gathered by the input
``beam_idx``, joined with the new keys, repeated for the query heads, and read by `ScaledDotProductAttention`. Else it copies
the whole cache at every step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.runtime.interface import cache_names

__all__ = ["BEAM_INPUT", "StatefulDecoder", "make_stateful"]

BEAM_INPUT = "beam_idx"
"""Input of the rewritten graph, (batch,) int32: the row that each row goes on from, which is itself."""

_SEQUENCE = 2  # axis of keys and values


@dataclass(frozen=True)
class StatefulDecoder:
    """The rewritten graph.

    Attributes:
        model: An `openvino.Model`; its inputs are those of the graph without the cache, and `BEAM_INPUT`.
        unfused: Layer to the reason why its attention was left as it is: right, and slower.
    """

    model: Any
    unfused: dict[int, str]

    def note(self) -> str:
        """Return in words how many layers copy their cache at every step and why; empty where none does."""
        if not self.unfused:
            return ""
        reasons = "; ".join(dict.fromkeys(self.unfused.values()))
        return f"attention of {len(self.unfused)} layers in parts: {reasons}"


def make_stateful(model: Any, facts: ModelFacts) -> StatefulDecoder:
    """Rewrite a decoder that takes ``past_key_values.N.key`` and gives ``present.N.key``.

    Args:
        model: An `openvino.Model`, as read from ``decoder.onnx``; it is changed and not to be used afterwards.
        facts: What the manifest says of the model.
    """
    import openvino as ov
    from openvino import opset8 as ops

    beams = ops.parameter([-1], np.int32, name=BEAM_INPUT)
    beams.output(0).set_names({BEAM_INPUT})
    empty = _empty_cache(model, facts)
    past = {
        name: model.input(name).get_node()
        for name in cache_names("past_key_values", facts.num_layers)
    }
    grown = [
        model.output(name).get_node().input_value(0)
        for name in cache_names("present", facts.num_layers)
    ]
    unfused: dict[int, str] = {}
    for layer, (keys, values) in enumerate(zip(grown[0::2], grown[1::2], strict=True)):
        try:
            _fuse(keys, values, facts.num_kv_heads)
        except _NoMatchError as reason:
            unfused[layer] = str(reason)
    sinks = []
    for (name, parameter), new in zip(past.items(), grown, strict=True):
        shape = [-1, facts.num_kv_heads, -1, facts.head_dim]
        state = ops.read_value(empty, name, np.float32, shape)
        rows = ops.gather(state, beams, ops.constant(0, np.int64))
        parameter.output(0).replace(rows.output(0))
        sinks.append(ops.assign(new.get_node(), name))
    inputs = [one for one in model.get_parameters() if one.get_friendly_name() not in past]
    logits = model.output("logits").get_node()
    return StatefulDecoder(ov.Model([logits], sinks, [*inputs, beams], "decoder"), unfused)


def _empty_cache(model: Any, facts: ModelFacts) -> Any:
    """Return a node (batch, kv_heads, 0, head_dim), the value of a state before its first run."""
    from openvino import opset8 as ops

    shape = ops.shape_of(model.input("inputs_embeds").get_node(), "i64")
    first = ops.constant([0], np.int64)
    batch = ops.gather(shape, first, ops.constant(0, np.int64))
    rest = ops.constant([facts.num_kv_heads, 0, facts.head_dim], np.int64)
    return ops.broadcast(ops.constant(0.0, np.float32), ops.concat([batch, rest], 0))


class _NoMatchError(Exception):
    """The attention of a layer is not of the form that is replaced."""


def _fuse(keys: Any, values: Any, kv_heads: int) -> None:
    """Put `ScaledDotProductAttention` in the place of one layer's attention.

    Args:
        keys: Output that holds old and new keys, (batch, kv_heads, total_sequence, head_dim).
        values: Like `keys`.
        kv_heads: Key-value heads.

    Raises:
        _NoMatchError: With the reason; nothing was changed.
    """
    from openvino import opset13 as ops

    product = _only(_readers(values, "MatMul"), "its values are not read by one product")
    softmax = _expected(product.input_value(0), "Softmax", "no softmax before the values")
    added = _expected(softmax.input_value(0), "Add", "no mask before the softmax")
    scores = _expected(added.input_value(0), "MatMul", "the scores are changed before the mask")
    turned = _expected(scores.input_value(1), "Transpose", "the keys are not transposed")
    if turned.input_value(0) != keys:
        raise _NoMatchError("the scores are those of other keys")
    query, result = scores.input_value(0), product.output(0)
    mask = added.input_value(1)
    grouped = _reshaped(product)
    if grouped is not None:
        query = _expected(query, "Reshape", "the query heads are not grouped").input_value(0)
        result, mask = grouped.output(0), _of_one_head(mask)
    heads = result.get_partial_shape()[1]
    if heads.is_dynamic or heads.get_length() % kv_heads:
        raise _NoMatchError("the number of query heads is not known")
    repeats = heads.get_length() // kv_heads
    repeated = [_repeated(one, repeats) for one in (keys, values)]
    scale = ops.constant(1.0, np.float32)  # the query is scaled already
    fused = ops.scaled_dot_product_attention(query, *repeated, mask, scale, causal=False)
    result.replace(fused.output(0))


def _readers(output: Any, kind: str) -> list[Any]:
    nodes = (target.get_node() for target in output.get_target_inputs())
    return [node for node in nodes if node.get_type_name() == kind]


def _only(found: Iterable[Any], reason: str) -> Any:
    nodes = list(found)
    if len(nodes) != 1:
        raise _NoMatchError(reason)
    return nodes[0]


def _expected(output: Any, kind: str, reason: str) -> Any:
    node = output.get_node()
    if node.get_type_name() != kind:
        raise _NoMatchError(f"{reason}: found {node.get_type_name()}")
    return node


def _reshaped(product: Any) -> Any:
    """Return the Reshape that takes grouped heads apart; None where every query head has keys of its own."""
    readers = [target.get_node() for target in product.output(0).get_target_inputs()]
    first = readers[0]
    return first if len(readers) == 1 and first.get_type_name() == "Reshape" else None


def _of_one_head(mask: Any) -> Any:
    """Return the mask (batch, 1, sequence, total_sequence) of which grouped heads have a copy each."""
    node = _expected(mask, "Concat", "the mask of grouped heads is not made of copies")
    copies = node.input_values()
    if any(copy != copies[0] for copy in copies):
        raise _NoMatchError("the query heads of a group have masks of their own")
    return copies[0]


def _repeated(output: Any, repeats: int) -> Any:
    """Return keys or values once for each query head, (batch, heads, total_sequence, head_dim)."""
    from openvino import opset13 as ops

    if repeats == 1:
        return output
    kv_heads, width = (output.get_partial_shape()[axis].get_length() for axis in (1, 3))
    apart = ops.unsqueeze(output, ops.constant(_SEQUENCE, np.int64))
    copies = ops.constant([1, 1, repeats, 1, 1], np.int64)
    wide = ops.broadcast(apart, copies, broadcast_spec="BIDIRECTIONAL")
    joined = ops.constant([0, kv_heads * repeats, -1, width], np.int64)
    return ops.reshape(wide, joined, special_zero=True)
