"""Text-side modules as they are traced: `embedding`, and ONE `decoder` for prefill and decode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from moir_edge.models.masks import LayerMasks
from moir_edge.transformers_cache import cache_keyword

__all__ = ["BlockDecoderGraph", "DecoderGraph", "EmbeddingGraph"]


class EmbeddingGraph(nn.Module):
    """Token ids to embeddings."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embed_tokens = embedding

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Map (batch, sequence) to (batch, sequence, hidden)."""
        embeds: torch.Tensor = self.embed_tokens(input_ids)
        return embeds


class DecoderGraph(nn.Module):
    """One step of the language model: embeddings of new tokens and the cache go in, logits and the grown cache come out.

    A prefill is a step of a whole prompt with an empty cache, a decode step one of a single token; both are this graph.
    Each token sees the tokens before it, in sliding layers the last few of them. Logits are those of the last position
    alone: prompts are padded on the left, so it is the one to continue in every row.

    Args:
        language_model: The decoder stack.
        lm_head: The output projection.
        after_head: What the model computes of its head's logits (a soft-cap, a scale); None for nothing.
        masks: Makes the attention masks; None for those of the language model's config.

    Raises:
        UnsupportedError: The language model has layers that the masks do not cover.
    """

    def __init__(
        self,
        language_model: Any,
        lm_head: nn.Linear,
        after_head: Callable[[torch.Tensor], torch.Tensor] | None = None,
        *,
        masks: LayerMasks | None = None,
    ) -> None:
        super().__init__()
        self.lm = language_model
        self.lm_head = lm_head
        self.after_head = after_head
        self.cache_keyword = cache_keyword(language_model)
        self.masks = LayerMasks(language_model.config) if masks is None else masks
        self.tied = lm_head.weight is language_model.get_input_embeddings().weight

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Run one step.

        Args:
            inputs_embeds: (batch, sequence, hidden).
            attention_mask: (batch, past_sequence + sequence).
            position_ids: (batch, sequence).
            past: Key and value of each layer in turn, (batch, kv_heads, past_sequence, head_dim).

        Returns:
            Logits (batch, 1, vocab), then key and value of each layer, grown by `sequence`.
        """
        masks = self.masks(attention_mask, past[0].shape[2], inputs_embeds.shape[1])
        return self.step(inputs_embeds, masks, position_ids, past)

    def step(
        self,
        inputs_embeds: torch.Tensor,
        masks: Any,
        position_ids: torch.Tensor,
        past: Sequence[torch.Tensor],
        **further: Any,
    ) -> tuple[torch.Tensor, ...]:
        """Run one step with masks that are made already.

        Args:
            inputs_embeds: (batch, sequence, hidden).
            masks: From `LayerMasks`.
            position_ids: (batch, sequence).
            past: Key and value of each layer in turn, (batch, kv_heads, past_sequence, head_dim).
            further: What the language model's forward takes besides.

        Returns:
            What `forward` returns.
        """
        # Without its config the cache has no sliding layers, and keeps the whole context in every layer.
        cache: Any = DynamicCache(list(zip(past[0::2], past[1::2], strict=True)))
        hidden = self.lm(
            inputs_embeds=inputs_embeds,
            attention_mask=masks,
            position_ids=position_ids,
            use_cache=True,
            **{self.cache_keyword: cache},
            **further,
        ).last_hidden_state
        present = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        return (self._logits(hidden), *present)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        # A tied head as a product of matrices becomes Gemm with transB, which reads the (vocab, hidden)
        # table of the embedding as it lies; an untied one becomes MatMul on (hidden, vocab).
        if self.tied:
            logits: torch.Tensor = self.lm_head(hidden[:, -1])[:, None]
        else:
            logits = self.lm_head(hidden[:, -1:])
        return logits if self.after_head is None else self.after_head(logits)


class BlockDecoderGraph(DecoderGraph):
    """A decoder some of whose prompt tokens see later ones too: those of an image (Gemma 3) or of the whole prompt (PaliGemma).

    One input more numbers the blocks of tokens that see each other. Generated tokens are in none, and see what is before
    them.
    """

    def forward(  # type: ignore[override]  # one input more, in front of the cache
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        attention_blocks: torch.Tensor,
        past: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Run one step.

        Args:
            inputs_embeds: (batch, sequence, hidden).
            attention_mask: (batch, past_sequence + sequence).
            position_ids: (batch, sequence).
            attention_blocks: (batch, sequence) int64; tokens with the same number of 0 and above see each other.
            past: Key and value of each layer in turn, (batch, kv_heads, past_sequence, head_dim).

        Returns:
            Logits (batch, 1, vocab), then key and value of each layer, grown by `sequence`.
        """
        new = inputs_embeds.shape[1]
        masks = self.masks(attention_mask, past[0].shape[2], new, attention_blocks)
        return self.step(inputs_embeds, masks, position_ids, past)
