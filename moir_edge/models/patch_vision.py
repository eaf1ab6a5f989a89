"""Parts of the towers that take one image as rows of patches: what follows from its grid comes in as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from moir_edge.models.masks import MASKED_SCORE

__all__ = ["PatchBlock", "attend", "embed_patches", "look_up"]


def embed_patches(convolution: nn.Conv2d | nn.Conv3d, pixels: torch.Tensor) -> torch.Tensor:
    """Project patches that lie flat, as one product of matrices.

    The kernel is as large as a patch, so the convolution meets every value once. A runtime would convolve patch by patch.

    Args:
        convolution: The model's own, (width, channels, frames, height, width of a patch), or without frames.
        pixels: (patches, values of one patch).

    Returns:
        (1, patches, width).
    """
    return functional.linear(pixels[None], convolution.weight.flatten(1), convolution.bias)


def attend(
    attention: Any,
    hidden: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    windows: Sequence[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Let the patches of one image look at each other, all of them or those of one window.

    The model's own forward cuts the sequence at boundaries that it reads from a tensor, which no graph can hold.

    Args:
        attention: The model's own, with `qkv`, `proj`, `num_heads` and `scaling`.
        hidden: (1, patches, width).
        cos: (patches, head_dim).
        sin: (patches, head_dim).
        windows: The patch at each place of each window, (windows, places) int64; 1 where there is one and 0 elsewhere,
            (windows, places) int64; and the place of each patch, counted through all windows, (patches,) int64. None
            where every patch sees every other.

    Returns:
        (1, patches, width).
    """
    states = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, -1))
    states = states.permute(2, 0, 3, 1, 4)  # (3, 1, heads, patches, head_dim)
    query, key, value = states[0], states[1], states[2]
    found = look_up(query, key, value, attention.scaling, cos, sin, windows)
    projected: torch.Tensor = attention.proj(found)
    return projected


def look_up(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    windows: Sequence[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the values that each patch finds in the patches that it sees, (1, patches, width).

    Args:
        query: (1, heads, patches, head_dim).
        key: As `query`.
        value: As `query`.
        scaling: Of the scores.
        cos: As in `attend`.
        sin: As in `attend`.
        windows: As in `attend`.
    """
    # Scaling the query, not the scores, keeps the product small enough for float16.
    query, key = _rotated(query, cos, sin) * scaling, _rotated(key, cos, sin)
    if windows is None:
        found = _looked_up(query, key, value)
    else:
        patches, held, places = windows
        query, key, value = (_gathered(part, patches) for part in (query, key, value))
        mask = torch.where(held > 0, 0.0, MASKED_SCORE)[:, None]  # (windows, 1, places)
        found = _looked_up(query, key, value, mask).flatten(2, 3).index_select(2, places)
    return found.transpose(1, 2).flatten(2)


class PatchBlock(nn.Module):
    """One block of a tower, called as a whole: export traces one of each kind and stamps the others.

    Args:
        block: The model's own.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.attn = block.norm1, block.attn
        self.norm2, self.mlp = block.norm2, block.mlp

    def forward(
        self,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        windows: Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return (1, patches, width); the inputs are those of `attend`."""
        hidden = hidden + attend(self.attn, self.norm1(hidden), cos, sin, windows)
        passed: torch.Tensor = hidden + self.mlp(self.norm2(hidden))
        return passed


def _looked_up(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the values that each query finds; the last two axes of all are (patches, head_dim)."""
    scores = torch.matmul(query, key.transpose(-1, -2))
    return torch.matmul(torch.softmax(scores if mask is None else scores + mask, dim=-1), value)


def _gathered(states: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """Put (1, heads, patches, head_dim) in windows, (1, heads, windows, places, head_dim)."""
    return torch.unflatten(states.index_select(2, patches.flatten()), 2, patches.shape)


def _rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = states.shape[-1] // 2
    turned = torch.cat([-states[..., half:], states[..., :half]], dim=-1)
    return states * cos + turned * sin
