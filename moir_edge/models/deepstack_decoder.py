"""Decoders that add features of the tower to the hidden states behind their first layers (DeepStack)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from moir_edge.models.decoder import DecoderGraph

__all__ = ["DeepstackDecoderGraph"]


class DeepstackDecoderGraph(DecoderGraph):
    """A decoder that takes the features of each level for every token, zeros for those outside an image.

    The model itself writes to the positions of a mask, whose number depends on the data. A sum with zeros is the same.
    Its language model takes `deepstack_visual_embeds` and adds them by its own `_deepstack_process`.
    """

    def forward(  # type: ignore[override]  # one input more, in front of the cache
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        deepstack_embeds: torch.Tensor,
        past: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Run one step.

        Args:
            inputs_embeds: (batch, sequence, hidden).
            attention_mask: (batch, past_sequence + sequence).
            position_ids: (3, batch, sequence), or (batch, sequence) where the model counts on one axis.
            deepstack_embeds: (batch, sequence, levels, hidden); level i is added behind layer i.
            past: Key and value of each layer in turn, (batch, kv_heads, past_sequence, head_dim).

        Returns:
            Logits (batch, 1, vocab), then key and value of each layer, grown by `sequence`.
        """
        levels = [deepstack_embeds[:, :, level] for level in range(deepstack_embeds.shape[2])]
        masks = self.masks(attention_mask, past[0].shape[2], inputs_embeds.shape[1])
        with _added_everywhere(self.lm):
            return self.step(
                inputs_embeds, masks, position_ids, past, deepstack_visual_embeds=levels
            )


@contextmanager
def _added_everywhere(language_model: Any) -> Iterator[None]:
    """Let a language model add its DeepStack features to all tokens, as tensors of the hidden states' shape."""

    def add(hidden: torch.Tensor, _: None, features: torch.Tensor) -> torch.Tensor:
        return hidden + features

    language_model._deepstack_process = add
    try:
        yield
    finally:
        del language_model._deepstack_process
