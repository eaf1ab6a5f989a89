"""Text-side modules as they are traced: `embedding`, and ONE `decoder` for prefill and decode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from moir_edge.errors import UnsupportedError
from moir_edge.transformers_cache import cache_keyword

__all__ = ["MASKED_SCORE", "DecoderGraph", "EmbeddingGraph", "decoder_mask"]

# Finite in float16 even after a score is added, and far enough down that its exponential is zero; a row with
# every key masked (left padding) gets equal weights instead of NaN.
MASKED_SCORE = -3e4


def decoder_mask(attention_mask: torch.Tensor, past: int, new: int, groups: int) -> torch.Tensor:
    """Return the additive causal and padding mask, as arithmetic that survives tracing.

    Args:
        attention_mask: (batch, past + new), 1 for a real token and 0 for padding.
        past: Tokens in the cache.
        new: Tokens of this step.
        groups: Query heads per key/value head.

    Returns:
        Float32, (batch, 1, groups × new, past + new): 0 where a query may look, `MASKED_SCORE` elsewhere;
        the rows repeat for each group, as `grouped_attention` stacks them.
    """
    keys = torch.arange(past + new, device=attention_mask.device)
    causal = keys[None, :] <= keys[past:, None]  # (new, total)
    allowed = causal[None, None] & (attention_mask[:, None, None, :] > 0)
    mask = torch.where(allowed, 0.0, MASKED_SCORE)
    return mask if groups == 1 else torch.cat([mask] * groups, dim=2)


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
    """The language model with its cache as plain tensors and logits of the last position only.

    Prompts are padded on the left, so the last position is the one to continue, and a whole prompt's logits
    (vocabulary × length) never leave the graph.

    Args:
        language_model: The decoder stack.
        lm_head: The output projection.
        after_head: What becomes of the logits behind the head, such as `Architecture.after_head` of a family.
    """

    def __init__(
        self,
        language_model: Any,
        lm_head: nn.Linear,
        after_head: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.lm = language_model
        self.lm_head = lm_head
        self.after_head = after_head
        self.cache_keyword = cache_keyword(language_model)
        config = language_model.config
        _require_full_attention(config)
        self.groups = config.num_attention_heads // config.num_key_value_heads
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
        # Typed as a mixture of layer kinds; full attention has been checked for.
        cache: Any = DynamicCache(list(zip(past[0::2], past[1::2], strict=True)))
        hidden = self.lm(
            inputs_embeds=inputs_embeds,
            attention_mask=decoder_mask(
                attention_mask, past[0].shape[2], inputs_embeds.shape[1], self.groups
            ),
            position_ids=position_ids,
            use_cache=True,
            **{self.cache_keyword: cache},
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


def _require_full_attention(config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        kinds.add("sliding_attention")
    if kinds != {"full_attention"}:
        raise UnsupportedError(
            f"the language model {config.model_type!r} uses {', '.join(sorted(kinds))}; "
            "the exporter supports only full attention in every layer"
        )
