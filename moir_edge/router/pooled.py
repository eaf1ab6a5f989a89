"""The common part of the routers that enrich every token of a modality from the mean of the other one."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from moir_edge.router.base import Routed, Router, Tokens
from moir_edge.router.config import Side

__all__ = ["Enriched", "PooledRouter"]


class Enriched(NamedTuple):
    """The tokens of one modality after routing: rows (batch, tokens, hidden), scores and gate (batch, tokens)."""

    rows: Tensor
    scores: Tensor
    gate: Tensor


class PooledRouter(Router):
    """A router whose source is the masked mean of the other modality's valid tokens, taken before any routing.

    Args:
        config: Settings of the router.
        hidden_size: Width D of the language model's embeddings.
    """

    @abstractmethod
    def enrich(self, side: Side, tokens: Tensor, valid: Tensor, source: Tensor) -> Enriched:
        """Enrich one modality.

        Args:
            side: Which one.
            tokens: (batch, tokens, hidden) float32, zero where invalid.
            valid: (batch, tokens) bool.
            source: (batch, hidden) float32, the mean of the other modality.
        """

    def magnitude(self, rows: Tensor) -> Tensor:
        """Return squares, which channel energies are sums of."""
        return rows.square()

    def enrich_sides(self, image: Tokens, text: Tokens) -> tuple[Routed, Routed]:
        """Enrich each side from the mean of the other, alike in training and inference."""
        return self._enrich("image", image, text), self._enrich("text", text, image)

    def _enrich(self, side: Side, own: Tokens, other: Tokens) -> Routed:
        tokens, positions, valid = own
        ones = torch.ones_like(valid, dtype=torch.float32)
        zeros = torch.zeros_like(ones)
        none = positions.new_full((*valid.shape, 1), -1)
        if side not in self.config.enriched_sides:
            return Routed(tokens, ones * valid, none, zeros, zeros)
        found = self.enrich(side, tokens, valid, masked_mean(other.tokens, other.valid))
        return Routed(found.rows, found.scores * valid, none, zeros, found.gate * valid)


def masked_mean(tokens: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of the valid tokens, (batch, hidden); zero where there is none.

    Args:
        tokens: (batch, tokens, hidden), zero where invalid.
        valid: (batch, tokens) bool.
    """
    return tokens.sum(dim=1) / valid.sum(dim=1, keepdim=True).clamp_min(1)
