"""Pixtral's tower and Mistral 3's projector, for one image of any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from moir_edge.models.patch_vision import embed_patches, look_up

__all__ = ["PixtralVision"]


class PixtralVision(nn.Module):
    """Patches, blocks in which all patches see each other, the merger of patches, and the projector.

    Args:
        tower: The model's `vision_tower`.
        projector: Its `multi_modal_projector`.
        blocks: The block whose features are taken, counted from 1; later ones are left out.
    """

    def __init__(self, tower: Any, projector: Any, blocks: int) -> None:
        super().__init__()
        self.patch_conv, self.ln_pre = tower.patch_conv, tower.ln_pre
        self.blocks = nn.ModuleList(map(_Block, tower.transformer.layers[:blocks]))
        self.norm, self.merging_layer = projector.norm, projector.patch_merger.merging_layer
        self.linear_1, self.act, self.linear_2 = (
            projector.linear_1,
            projector.act,
            projector.linear_2,
        )
        self.width: int = tower.patch_conv.out_channels
        self.patches_of_block: int = projector.patch_merger.spatial_merge_size**2

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
        hidden = self.ln_pre(embed_patches(self.patch_conv, pixel_values))
        for block in self.blocks:
            hidden = block(hidden, rotary_cos, rotary_sin)
        # A row of the merger's input goes by feature, then by patch of the block.
        patches = self.norm(hidden).reshape(1, -1, self.patches_of_block, self.width)
        rows = patches.transpose(2, 3).reshape(1, -1, self.width * self.patches_of_block)
        projected: torch.Tensor = self.linear_2(self.act(self.linear_1(self.merging_layer(rows))))
        return projected[0]


class _Block(nn.Module):
    """One block of the tower, called as a whole: export traces one and stamps the others.

    Args:
        block: The model's own.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.attention_norm, self.attention = block.attention_norm, _Attention(block.attention)
        self.ffn_norm, self.feed_forward = block.ffn_norm, block.feed_forward

    def forward(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), cos, sin)
        passed: torch.Tensor = hidden + self.feed_forward(self.ffn_norm(hidden))
        return passed


class _Attention(nn.Module):
    """The patches of one image look at each other; the model's own masks those of other images."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.o_proj = attention.v_proj, attention.o_proj
        self.heads: int = attention.num_heads
        self.scaling: float = attention.scaling

    def forward(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            project(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        found: torch.Tensor = self.o_proj(look_up(query, key, value, self.scaling, cos, sin))
        return found
