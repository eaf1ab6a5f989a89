"""The towers of Qwen2-VL and Qwen2.5-VL, for one image of any size."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from moir_edge.models.patch_vision import PatchBlock, embed_patches

__all__ = ["QwenVision", "WindowedQwenVision"]


class QwenVision(nn.Module):
    """Patches, blocks in which all patches see each other, and the merger.

    Args:
        tower: The model's `visual`.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.patch_embed = tower.patch_embed
        self.blocks = nn.ModuleList(map(PatchBlock, tower.blocks))
        self.merger = tower.merger

    def forward(
        self, pixel_values: torch.Tensor, rotary_cos: torch.Tensor, rotary_sin: torch.Tensor
    ) -> torch.Tensor:
        """Encode one image.

        Args:
            pixel_values: (patches, values of one patch), the patches of one merged token next to each other.
            rotary_cos: (patches, head_dim).
            rotary_sin: (patches, head_dim).

        Returns:
            Image features (image_rows, hidden).
        """
        hidden = embed_patches(self.patch_embed.proj, pixel_values)
        for block in self.blocks:
            hidden = block(hidden, rotary_cos, rotary_sin)
        return self._merged(hidden)

    def _merged(self, hidden: torch.Tensor) -> torch.Tensor:
        """Make one row of each block of patches; the batch of one makes products of matrices of its layers."""
        rows = self.merger.ln_q(hidden).reshape(1, -1, self.merger.hidden_size)
        merged: torch.Tensor = self.merger.mlp(rows)[0]
        return merged


class WindowedQwenVision(QwenVision):
    """A tower whose patches see those of their window, and in a few blocks all others.

    The model sorts the patches by windows first and back at the end; here they stay, and windows are gathered.

    Args:
        tower: The model's `visual`.
        full: The blocks in which all patches see each other.
    """

    def __init__(self, tower: Any, full: Collection[int]) -> None:
        super().__init__(tower)
        self.full = frozenset(full)

    def forward(  # type: ignore[override]  # three inputs more
        self,
        pixel_values: torch.Tensor,
        rotary_cos: torch.Tensor,
        rotary_sin: torch.Tensor,
        window_patches: torch.Tensor,
        window_mask: torch.Tensor,
        window_places: torch.Tensor,
    ) -> torch.Tensor:
        """Encode one image.

        Args:
            pixel_values: (patches, values of one patch), the patches of one merged token next to each other.
            rotary_cos: (patches, head_dim).
            rotary_sin: (patches, head_dim).
            window_patches: (windows, places) int64, as `moir_edge.runtime.patch_grid.window_tables` has them.
            window_mask: (windows, places) int64.
            window_places: (patches,) int64.

        Returns:
            Image features (image_rows, hidden).
        """
        windows = (window_patches, window_mask, window_places)
        hidden = embed_patches(self.patch_embed.proj, pixel_values)
        for index, block in enumerate(self.blocks):
            seen = None if index in self.full else windows
            hidden = block(hidden, rotary_cos, rotary_sin, seen)
        return self._merged(hidden)
