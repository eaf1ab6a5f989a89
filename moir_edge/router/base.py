"""Parts that every router kind shares: inputs, checks and the form of the result."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from moir_edge.errors import ShapeError
from moir_edge.router.config import RouterConfig
from moir_edge.router.steps import read_rows, usable_side, write_rows

__all__ = ["Routed", "Router", "RouterOutput", "Tokens"]


@dataclass(frozen=True)
class RouterOutput:
    """Result of one routing; T = image_tokens + text_tokens, image tokens first.

    Attributes:
        inputs_embeds: (batch, sequence, hidden), dtype of the input.
        scores: (batch, T) float32 in [0, 1]; 0 where no token stands or the sample is not routed. `token`: information
            density; `channel`: share of the token's energy that lies in the channels it keeps; `gate`: weight of the
            token's own modality. Low is weak in each.
        indices: (batch, T, top_k) int64 sequence positions of the sources, best first; -1 where none. `channel` and
            `gate` read the mean of the other modality, no single token: (batch, T, 1), all -1.
        margin: (batch, T) float32, best minus runner-up similarity of a routed token; 0 with a single source, and
            for `channel` and `gate`.
        gate: (batch, T) float32 strength of the enrichment in [0, 1]; 0 for tokens that are not routed. `token`: from
            1 − score; `channel`: mean α of the exchanged channels; `gate`: weight of the other modality, 1 − score.
    """

    inputs_embeds: Tensor
    scores: Tensor
    indices: Tensor
    margin: Tensor
    gate: Tensor

    def detached(self) -> RouterOutput:
        """Return the same result without its autograd graph."""
        return RouterOutput(
            **{name: getattr(self, name).detach() for name in self.__dataclass_fields__}
        )


class Tokens(NamedTuple):
    """One modality before routing: tokens (batch, tokens, hidden) float32, zero where not valid; the rest (batch, tokens).

    No token of a sample that cannot be routed is valid.
    """

    tokens: Tensor
    positions: Tensor
    valid: Tensor


class Routed(NamedTuple):
    """One modality after routing: rows (batch, tokens, hidden), and its part of each other field of `RouterOutput`."""

    rows: Tensor
    scores: Tensor
    indices: Tensor
    margin: Tensor
    gate: Tensor


class Router(nn.Module):
    """A router of some kind: embeddings and positions in, `RouterOutput` out.

    Args:
        config: Settings of the router.
        hidden_size: Width D of the language model's embeddings.
    """

    def __init__(self, config: RouterConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.hidden_size = hidden_size

    @abstractmethod
    def enrich_sides(self, image: Tokens, text: Tokens) -> tuple[Routed, Routed]:
        """Enrich each modality from the other one as it was: image, text.

        Args:
            image: The image tokens.
            text: The text tokens.
        """

    def magnitude(self, rows: Tensor) -> Tensor:
        """Return what has to sum to a number that float32 holds in a side that can be routed: absolute values."""
        return rows.abs()

    def route(
        self,
        inputs_embeds: Tensor,
        image_positions: Tensor,
        text_positions: Tensor,
        text_mask: Tensor,
    ) -> RouterOutput:
        """Route one batch; inputs are checked and autocast is off. The arguments are those of `forward`."""
        sides = ((image_positions, image_positions >= 0), (text_positions, text_mask))
        rows = [read_rows(inputs_embeds, *side) for side in sides]
        image_usable, text_usable = (
            usable_side(self.magnitude(row.detach()), present)
            for row, (_, present) in zip(rows, sides, strict=True)
        )
        usable = image_usable & text_usable
        image, text = (
            Tokens(torch.where((present & usable)[..., None], row, 0.0), places, present & usable)
            for row, (places, present) in zip(rows, sides, strict=True)
        )
        parts = zip(*self.enrich_sides(image, text), strict=True)
        routed, *others = (torch.cat(part, dim=1) for part in parts)
        positions = torch.cat([image.positions, text.positions], dim=1)
        valid = torch.cat([image.valid, text.valid], dim=1)
        return RouterOutput(write_rows(inputs_embeds, valid, positions, routed), *others)

    def forward(
        self,
        inputs_embeds: Tensor,
        image_positions: Tensor,
        text_positions: Tensor,
        text_mask: Tensor,
    ) -> RouterOutput:
        """Route one batch of prompts; scores are float32 whatever the model's dtype, under autocast too.

        Args:
            inputs_embeds: (batch, sequence, hidden) embeddings with the image features in place.
            image_positions: (batch, image_tokens) int64; negative where a sample has fewer image tokens.
            text_positions: (batch, text_tokens) int64; any value where `text_mask` is False.
            text_mask: (batch, text_tokens) bool, True where a text token stands.

        Raises:
            ShapeError: The shapes do not fit each other or the router's width.
        """
        self._check(inputs_embeds, image_positions, text_positions, text_mask)
        with torch.autocast(device_type=inputs_embeds.device.type, enabled=False):
            return self.route(inputs_embeds, image_positions, text_positions, text_mask)

    def _check(self, embeds: Tensor, image: Tensor, text: Tensor, mask: Tensor) -> None:
        """Raise `ShapeError` if the shapes do not fit each other or the router's width."""
        name = f"{self.config.kind} router"
        if embeds.ndim != 3 or embeds.shape[-1] != self.hidden_size:
            raise ShapeError(
                f"{name}: got inputs_embeds {tuple(embeds.shape)}; "
                f"expected (batch, sequence, {self.hidden_size})"
            )
        batch = embeds.shape[0]
        pairs = image.ndim == 2 and text.ndim == 2 and mask.shape == text.shape
        if not pairs or {image.shape[0], text.shape[0]} != {batch}:
            raise ShapeError(
                f"{name}: got image_positions {tuple(image.shape)}, text_positions {tuple(text.shape)}, "
                f"text_mask {tuple(mask.shape)}; expected ({batch}, image_tokens) and twice ({batch}, text_tokens)"
            )
