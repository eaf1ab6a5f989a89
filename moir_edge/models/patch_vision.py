"""Parts of the towers that take one image as rows of patches: what follows from its grid comes in as tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

__all__ = ["attend", "embed_patches"]


def embed_patches(convolution: nn.Conv3d, pixels: torch.Tensor) -> torch.Tensor:
    """Project patches that lie flat, as one product of matrices.

    The kernel is as large as a patch, so the convolution meets every value once. A runtime would convolve patch by patch.

    Args:
        convolution: The model's own, (width, channels, frames, height, width of a patch).
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
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Let the patches of one image look at each other.

    The model's own forward cuts the sequence at boundaries that it reads from a tensor, which no graph can hold.

    Args:
        attention: The model's own, with `qkv`, `proj`, `num_heads` and `scaling`.
        hidden: (1, patches, width).
        cos: (patches, head_dim).
        sin: (patches, head_dim).
        mask: Additive, (patches, patches), or None where every patch sees every other.

    Returns:
        (1, patches, width).
    """
    states = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, -1))
    states = states.permute(2, 0, 3, 1, 4)  # (3, 1, heads, patches, head_dim)
    # Scaling the query, not the scores, keeps the product small enough for float16.
    query = _rotated(states[0], cos, sin) * attention.scaling
    scores = torch.matmul(query, _rotated(states[1], cos, sin).transpose(2, 3))
    if mask is not None:
        scores = scores + mask
    found = torch.matmul(torch.softmax(scores, dim=-1), states[2]).transpose(1, 2)
    projected: torch.Tensor = attention.proj(found.flatten(2))
    return projected


def _rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = states.shape[-1] // 2
    turned = torch.cat([-states[..., half:], states[..., :half]], dim=-1)
    return states * cos + turned * sin
