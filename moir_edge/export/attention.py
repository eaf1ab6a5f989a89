"""The attention that is traced: grouped heads without copies of keys and values, and no data-dependent branch.

It goes in through transformers' own `AttentionInterface`, so no model code is edited.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

__all__ = ["attention_implementation", "export_attention", "grouped_attention"]

_NAME = "moir_edge_export"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend with the query heads of one group stacked along the sequence.

    Repeating each key and value head for its group, as the eager code does, would copy the whole cache at
    every step.

    Args:
        module: The attention module; unused, part of the interface.
        query: (batch, heads, sequence, head_dim).
        key: (batch, kv_heads, total_sequence, head_dim).
        value: Like `key`.
        attention_mask: Additive, (batch, 1, heads / kv_heads × sequence, total_sequence), or None.
        scaling: Factor on the scores; 1 / √head_dim by default.
        softcap: Bound that the scores approach by a hyperbolic tangent before the mask; None for no bound.

    Returns:
        (batch, sequence, heads, head_dim), and None in place of the weights.
    """
    del module
    heads, sequence, head_dim = query.shape[1:]
    kv_heads = key.shape[1]
    # Scaling the query, not the scores, keeps the product small enough for float16.
    scaled = query * (head_dim**-0.5 if scaling is None else scaling)
    if heads != kv_heads:
        scaled = torch.unflatten(scaled, 1, (kv_heads, heads // kv_heads)).flatten(2, 3)
    scores = torch.matmul(scaled, key.transpose(2, 3))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask
    output = torch.matmul(torch.softmax(scores, dim=-1), value)
    if heads != kv_heads:
        output = torch.unflatten(output, 2, (heads // kv_heads, sequence)).flatten(1, 2)
    return output.transpose(1, 2), None


@contextmanager
def attention_implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Let every sub-model of `model` use an implementation that transformers knows by name inside the block."""
    configs = {id(part.config): part.config for part in _parts(model)}
    before = {key: config._attn_implementation for key, config in configs.items()}
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


@contextmanager
def export_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let every sub-model of `model` use `grouped_attention` inside the block."""
    AttentionInterface.register(_NAME, grouped_attention)
    with attention_implementation(model, _NAME):
        yield


def _parts(model: PreTrainedModel) -> list[PreTrainedModel]:
    return [part for part in model.modules() if isinstance(part, PreTrainedModel)]
