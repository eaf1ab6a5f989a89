"""The common part of the routers that enrich every token of a modality from the mean of the other one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from moir_edge.router.base import Router, RouterOutput
from moir_edge.router.config import RouterConfig
from moir_edge.router.constants import FLOAT32_MAX
from moir_edge.router.steps import read_rows, write_rows

__all__ = ["Enriched", "PooledRouter", "Side"]

Side = Literal["image", "text"]


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

    def __init__(self, config: RouterConfig, hidden_size: int) -> None:
        super().__init__(config, hidden_size)
        closed = {"image-to-text": "image", "text-to-image": "text"}.get(config.direction)
        sides: tuple[Side, ...] = ("image", "text")
        self.enriched_sides = tuple(side for side in sides if side != closed)

    @abstractmethod
    def enrich(self, side: Side, tokens: Tensor, valid: Tensor, source: Tensor) -> Enriched:
        """Enrich one modality.

        Args:
            side: Which one.
            tokens: (batch, tokens, hidden) float32, zero where invalid.
            valid: (batch, tokens) bool.
            source: (batch, hidden) float32, the mean of the other modality.
        """

    def route(
        self,
        inputs_embeds: Tensor,
        image_positions: Tensor,
        text_positions: Tensor,
        text_mask: Tensor,
    ) -> RouterOutput:
        """Enrich each side from the mean of the other, alike in training and inference."""
        image_valid = image_positions >= 0
        image = read_rows(inputs_embeds, image_positions, image_valid)
        text = read_rows(inputs_embeds, text_positions, text_mask)
        usable = _usable(image, image_valid) & _usable(text, text_mask)
        image_valid, text_valid = image_valid & usable, text_mask & usable
        image = torch.where(image_valid[..., None], image, 0.0)
        text = torch.where(text_valid[..., None], text, 0.0)
        to_image = self._enrich("image", image, image_valid, masked_mean(text, text_valid))
        to_text = self._enrich("text", text, text_valid, masked_mean(image, image_valid))
        valid = torch.cat([image_valid, text_valid], dim=1)
        scores = torch.cat([to_image.scores, to_text.scores], dim=1)
        return RouterOutput(
            write_rows(
                inputs_embeds,
                valid,
                torch.cat([image_positions, text_positions], dim=1),
                torch.cat([to_image.rows, to_text.rows], dim=1),
            ),
            scores * valid,
            image_positions.new_full((*valid.shape, 1), -1),
            torch.zeros_like(scores),
            torch.cat([to_image.gate, to_text.gate], dim=1) * valid,
        )

    def _enrich(self, side: Side, tokens: Tensor, valid: Tensor, source: Tensor) -> Enriched:
        if side in self.enriched_sides:
            return self.enrich(side, tokens, valid, source)
        ones = torch.ones_like(valid, dtype=torch.float32)
        return Enriched(tokens, ones, torch.zeros_like(ones))


def masked_mean(tokens: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of the valid tokens, (batch, hidden); zero where there is none.

    Args:
        tokens: (batch, tokens, hidden), zero where invalid.
        valid: (batch, tokens) bool.
    """
    return tokens.sum(dim=1) / valid.sum(dim=1, keepdim=True).clamp_min(1)


def _usable(rows: Tensor, valid: Tensor) -> Tensor:
    """Return whether a side has a token and squares that float32 can sum, which no NaN or infinity has: (batch, 1)."""
    sizes = torch.where(valid, rows.detach().square().sum(dim=-1), 0.0)
    finite = sizes.sum(dim=1, keepdim=True) <= FLOAT32_MAX
    return finite & valid.any(dim=1, keepdim=True)
