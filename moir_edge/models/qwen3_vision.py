"""Qwen3-VL's tower with its DeepStack taps, for one image of any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from moir_edge.models.patch_vision import PatchBlock, embed_patches

__all__ = ["Qwen3Vision"]


class Qwen3Vision(nn.Module):
    """Patches, interpolated positions, blocks, the merger, and a merger of its own behind each tapped block.

    Args:
        tower: The model's `visual`.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.patch_embed = tower.patch_embed
        self.pos_embed = tower.pos_embed
        self.blocks = nn.ModuleList(map(PatchBlock, tower.blocks))
        self.norm, self.merger = tower.merger.norm, _Merger(tower.merger)
        self.deepstack_merger_list = nn.ModuleList(
            nn.Sequential(merger.norm, _Merger(merger)) for merger in tower.deepstack_merger_list
        )
        self.width: int = tower.merger.hidden_size
        self.taps = [int(block) for block in tower.deepstack_visual_indexes]

    def forward(
        self,
        pixel_values: torch.Tensor,
        position_indices: torch.Tensor,
        position_weights: torch.Tensor,
        rotary_cos: torch.Tensor,
        rotary_sin: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Encode one image.

        Args:
            pixel_values: (patches, values of one patch), the patches of one merged token next to each other.
            position_indices: (patches, 4) int64, rows of the table of positions around each patch.
            position_weights: (patches, 4), their shares.
            rotary_cos: (patches, head_dim).
            rotary_sin: (patches, head_dim).

        Returns:
            Image features (image_tokens, hidden), and DeepStack features (image_tokens, levels, hidden).
        """
        hidden = embed_patches(self.patch_embed.proj, pixel_values)
        hidden = hidden + (self.pos_embed(position_indices) * position_weights[:, :, None]).sum(1)
        taps: list[torch.Tensor] = []
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, rotary_cos, rotary_sin)
            if index in self.taps:
                merger = self.deepstack_merger_list[self.taps.index(index)]
                taps.append(merger(self._rows(hidden))[0])
        return self.merger(self._rows(self.norm(hidden)))[0], torch.stack(taps, dim=1)

    def _rows(self, hidden: torch.Tensor) -> torch.Tensor:
        """Make one row of each block of patches, (1, image_rows, width); the batch of one makes products of matrices."""
        return hidden.reshape(1, -1, self.width)


class _Merger(nn.Module):
    """The two layers of a merger; its norm comes before or after patches are put in rows."""

    def __init__(self, merger: Any) -> None:
        super().__init__()
        self.linear_fc1, self.act_fn = merger.linear_fc1, merger.act_fn
        self.linear_fc2 = merger.linear_fc2

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        merged: torch.Tensor = self.linear_fc2(self.act_fn(self.linear_fc1(rows)))
        return merged
