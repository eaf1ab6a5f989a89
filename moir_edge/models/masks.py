"""The attention masks of a decoder, as arithmetic that survives tracing: full, sliding, and blocks that see themselves whole."""

from __future__ import annotations

from typing import Any

import torch

from moir_edge.models.layers import SLIDING, layer_kinds

__all__ = ["MASKED_SCORE", "LayerMasks"]

# Finite in float16 even after a score is added, and far enough down that its exponential is zero; a row with
# every key masked (left padding) gets equal weights instead of NaN.
MASKED_SCORE = -3e4


class LayerMasks:
    """Makes the additive masks of a language model's layers.

    Args:
        config: The config of the language model.
        blocks_cross_window: Whether a token of a block sees the whole block in sliding layers too (PaliGemma 2), or
            only what lies in the window (Gemma 3).

    Raises:
        UnsupportedError: See `layer_kinds`.
    """

    def __init__(self, config: Any, *, blocks_cross_window: bool = False) -> None:
        self.kinds = layer_kinds(config)
        self.window = int(config.sliding_window) if SLIDING in self.kinds else 0
        self.groups: int = config.num_attention_heads // config.num_key_value_heads
        self.blocks_cross_window = blocks_cross_window

    def __call__(
        self,
        attention_mask: torch.Tensor,
        past: int,
        new: int,
        blocks: torch.Tensor | None = None,
    ) -> Any:
        """Return the masks of one step.

        Args:
            attention_mask: (batch, past + new), 1 for a real token and 0 for padding.
            past: Tokens in the cache.
            new: Tokens of this step.
            blocks: (batch, new), equal numbers of 0 and above for tokens that see each other; -1 for a causal token.

        Returns:
            Float32, (batch, 1, groups × new, past + new): 0 where a query may look, `MASKED_SCORE` elsewhere; the
            rows repeat for each group, as `grouped_attention` stacks them. A model with two kinds of layers gets
            one by kind.
        """
        keys = torch.arange(past + new, device=attention_mask.device)
        queries = keys[past:, None]
        causal, block = keys[None, :] <= queries, _same_block(blocks, past)
        seen = {}
        for kind in self.kinds:
            window = self._window(attention_mask, past) if kind == SLIDING else None
            allowed = self._joined(causal, window, block) & (attention_mask[:, None, None, :] > 0)
            mask = torch.where(allowed, 0.0, MASKED_SCORE)
            seen[kind] = mask if self.groups == 1 else torch.cat([mask] * self.groups, dim=2)
        return seen if len(seen) > 1 else seen[self.kinds[0]]

    def _window(self, attention_mask: torch.Tensor, past: int) -> torch.Tensor:
        """Return which keys lie in a query's window, (batch, 1, new, total).

        Tokens are counted, not columns: a cache may have unused columns, masked, in front of the new token.
        """
        places = attention_mask.cumsum(1)
        return (places[:, None, :] > places[:, past:, None] - self.window)[:, None]

    def _joined(
        self, causal: torch.Tensor, window: torch.Tensor | None, block: torch.Tensor | None
    ) -> torch.Tensor:
        """Return where a query may look, (batch or 1, 1, new, total)."""
        causal = causal[None, None]
        if block is None:
            return causal if window is None else causal & window
        if window is None:
            return causal | block
        return (causal & window) | block if self.blocks_cross_window else (causal | block) & window


def _same_block(blocks: torch.Tensor | None, past: int) -> torch.Tensor | None:
    """Return which keys are of a query's block, (batch, 1, new, total); those of the past are of none."""
    if blocks is None:
        return None
    keys = torch.cat([blocks.new_full((blocks.shape[0], past), -1), blocks], dim=1)
    return ((blocks[:, :, None] == keys[:, None, :]) & (blocks[:, :, None] >= 0))[:, None]
