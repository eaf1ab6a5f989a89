"""The channel router: exchanges the channels of a modality that carry least for those of the other one's mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moir_edge.checked import a, checked, size
from moir_edge.router.config import RouterConfig, Side
from moir_edge.router.constants import LEAST_MEAN_SQUARE, SCALE_RANGE, SHARE_FLOOR
from moir_edge.router.pooled import Enriched, PooledRouter, masked_mean

__all__ = ["ChannelRouter", "channel_energy"]


def channel_energy(tokens: Tensor, valid: Tensor) -> Tensor:
    """Return the centred energy Σ_t (x_td − mean_d)² of each channel over the valid tokens, (batch, hidden).

    It equals Σ_i σ_i² v_id² of the singular value decomposition of the centred tokens, none left out.

    Args:
        tokens: (batch, tokens, hidden), zero where invalid.
        valid: (batch, tokens) bool.
    """
    centred = tokens - masked_mean(tokens, valid)[:, None]
    return (centred * valid[..., None]).square().sum(dim=1)


class ChannelMix(nn.Module):
    """The learned strength of the exchange into one modality, α = sigmoid(mix) per channel, ½ at the start.

    Args:
        hidden: Width D of the language model.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(hidden))


class ChannelRouter(PooledRouter):
    """Channel-level router between the embeddings and the language model.

    Per sample and modality the channels of least centred energy (ties: the lower channel) are exchanged in all
    tokens: x′ = α·c·s + (1−α)·x. s is the mean of the other modality; c brings its RMS on these channels to that of
    the modality's own valid tokens, within [0.1, 10]; α = sigmoid of a learned vector per direction.

    As published, α is ½ at the start: a fresh channel router changes the logits.

    Args:
        config: Settings of the router.
        hidden_size: Width D of the language model's embeddings.

    Source: docs/architecture.md of this project, after a public port of the MoIR authors' code; the RMS is taken over the
    exchanged channels, which the description leaves open.
    """

    @checked(config=a(RouterConfig), hidden_size=size)
    def __init__(self, config: RouterConfig, hidden_size: int) -> None:
        super().__init__(config, hidden_size)
        for side in config.enriched_sides:
            self.add_module(side, ChannelMix(hidden_size))

    def enrich(self, side: Side, tokens: Tensor, valid: Tensor, source: Tensor) -> Enriched:
        """Exchange the weak channels of one modality; see the base class."""
        count = self.config.exchanged_channels(self.hidden_size)
        energy = channel_energy(tokens.detach(), valid)
        picks = torch.argsort(energy, dim=1, stable=True)[:, :count]
        exchanged = torch.zeros_like(energy).scatter_(1, picks, 1.0)  # (batch, hidden), 0 or 1
        squares = tokens.square()
        weak = (squares * exchanged[:, None]).sum(dim=2)  # (batch, tokens)
        number = valid.sum(dim=1, keepdim=True).clamp_min(1) * count
        own = (weak.sum(dim=1, keepdim=True) / number).clamp_min(LEAST_MEAN_SQUARE)
        other = (source.square() * exchanged).sum(dim=1, keepdim=True) / count
        scale = torch.sqrt(own) / torch.sqrt(other.clamp_min(LEAST_MEAN_SQUARE))
        matched = scale.clamp(*SCALE_RANGE) * source
        mix: ChannelMix = getattr(self, side)
        share = exchanged * torch.sigmoid(mix.mix.float())
        rows = tokens + share[:, None] * (matched[:, None] - tokens)
        kept = 1.0 - weak / squares.sum(dim=2).clamp_min(SHARE_FLOOR)
        gate = share.sum(dim=1, keepdim=True) / count
        return Enriched(rows, kept.clamp(0.0, 1.0), gate.expand_as(kept))
