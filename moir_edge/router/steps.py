"""Tensor steps of the routers that hold no weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from moir_edge.router.constants import BEHIND, FLOAT32_MAX, SHARE_FLOOR

__all__ = ["entropy_density", "read_rows", "usable_side", "weak_boundary", "write_rows"]


def entropy_density(tokens: Tensor) -> Tensor:
    """Return the entropy of each token's energy over its channels, as a share of the highest possible: (…,) in [0, 1].

    Args:
        tokens: (…, hidden) float32.
    """
    energy = tokens.square()
    share = energy / energy.sum(dim=-1, keepdim=True).clamp_min(SHARE_FLOOR)
    entropy = -(share * torch.log(share.clamp_min(SHARE_FLOOR))).sum(dim=-1)
    return (entropy / math.log(tokens.shape[-1])).clamp(0.0, 1.0)


def read_rows(embeds: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
    """Read rows in float32: (batch, tokens, hidden); positions outside the sequence are an error upstream."""
    safe = torch.where(valid, positions, 0)
    batch = torch.arange(embeds.shape[0], device=embeds.device)[:, None]
    return embeds[batch, safe].float()


def usable_side(magnitudes: Tensor, valid: Tensor) -> Tensor:
    """Return whether a side has a token, and magnitudes that float32 can sum, which no NaN or infinity has: (batch, 1) bool.

    Args:
        magnitudes: (batch, tokens, hidden), none negative.
        valid: (batch, tokens) bool.
    """
    sizes = torch.where(valid, magnitudes.sum(dim=-1), 0.0)
    finite = sizes.sum(dim=1, keepdim=True) <= FLOAT32_MAX
    return finite & valid.any(dim=1, keepdim=True)


def weak_boundary(ordered: Tensor, valid: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Return the highest weak and the lowest other value, (batch, 1) each.

    Args:
        ordered: (batch, tokens) densities with the slope added, `BEHIND` where invalid.
        valid: (batch, tokens), which tokens count.
        ratio: Share ρ of the n valid tokens that is weak: ⌊ρ·n + ½⌋ of them.
    """
    count = valid.float().sum(dim=1, keepdim=True)
    quota = torch.floor(count * ratio + 0.5)
    edges = F.pad(ordered.sort(dim=1).values, (1, 1), value=BEHIND)
    low, high = (edges.gather(1, quota.long() + step) for step in (0, 1))
    # All tokens weak, or none: the boundary lies a whole density beyond the last one.
    low = torch.where(quota > 0, low, high - 2.0)
    return low, torch.where(quota < count, high, low + 2.0)


def write_rows(embeds: Tensor, valid: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
    """Write rows back in their places; those of invalid tokens go to a spare row that is cut off.

    Args:
        embeds: (batch, sequence, hidden).
        valid: (batch, tokens) bool.
        positions: (batch, tokens) int64.
        rows: (batch, tokens, hidden).
    """
    length = embeds.shape[1]
    targets = torch.where(valid, positions, length)
    padded = F.pad(embeds, (0, 0, 0, 1))
    at = torch.arange(embeds.shape[0], device=embeds.device)[:, None]
    return padded.index_put((at, targets), rows.to(embeds.dtype))[:, :length]
