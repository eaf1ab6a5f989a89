"""Granite-Docling's tower with its connector and DeepStack mergers, on its coarse path."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["DoclingVision"]


class DoclingVision(nn.Module):
    """Patches, blocks, and one path of the connector for the last block and for each tapped one.

    Args:
        tower: The model's `vision_model`.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.embeddings = tower.embeddings
        self.layers = tower.encoder.layers
        self.post_layernorm = tower.post_layernorm
        connector = tower.connector
        self.ln_in, self.path = connector.ln_in, connector.coarse
        self.ln_mid, self.mlp_fc2 = connector.ln_mid, connector.mlp_fc2
        self.ln_out = connector.ln_out
        self.taps = frozenset(tower.config.deepstack_visual_indexes)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode tiles.

        Args:
            pixel_values: (images, 3, height, width).

        Returns:
            Image features (images, tokens, hidden), and DeepStack features (images, tokens, levels, hidden).
        """
        hidden = self.embeddings(pixel_values)
        tapped = []
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, attention_mask=None)
            if index in self.taps:
                tapped.append(hidden)
        features, _ = self.path(self.ln_in(self.post_layernorm(hidden)), [])
        features = nn.functional.gelu(self.ln_mid(features))
        levels = [
            merger(self.path.pixel_shuffle(states.contiguous(), self.path.scale_factor))
            for merger, states in zip(self.path.deepstack_mergers, tapped, strict=True)
        ]
        return self.ln_out(self.mlp_fc2(features)), torch.stack(levels, dim=2)
