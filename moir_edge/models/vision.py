"""Vision towers as fixed-size graphs: control flow that depends on the image becomes constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

__all__ = [
    "AnyResVision",
    "FeatureMapVision",
    "PatchGridVision",
    "ProjectedVision",
    "SelectedLayersVision",
    "ShuffledVision",
]


class PatchGridVision(nn.Module):
    """SigLIP tower and connector of the Idefics 3 / SmolVLM family, for full square tiles.

    The model derives position ids from a patch mask by bucketing; with a full mask they are constant, so
    the position embeddings stand in the graph as one tensor, and attention needs no mask.
    """

    def __init__(self, tower: Any, connector: nn.Module) -> None:
        super().__init__()
        self.patch_embedding = tower.embeddings.patch_embedding
        self.encoder = tower.encoder
        self.post_layernorm = tower.post_layernorm
        self.connector = connector
        self.register_buffer("positions", _full_grid_positions(tower))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map (images, 3, height, width) to (images, tokens, hidden)."""
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        encoded = self.encoder(inputs_embeds=patches + self.positions, attention_mask=None)
        features: torch.Tensor = self.connector(self.post_layernorm(encoded.last_hidden_state))
        return features


class SelectedLayersVision(nn.Module):
    """CLIP-like tower, hidden states of chosen layers side by side, and the projector of LLaVA."""

    def __init__(
        self,
        tower: nn.Module,
        projector: nn.Module,
        *,
        layers: int | Sequence[int],
        drop_class_token: bool,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector
        self.layers = (layers,) if isinstance(layers, int) else tuple(layers)
        self.first_row = 1 if drop_class_token else 0

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map (images, 3, height, width) to (images, tokens, hidden)."""
        outputs = self.tower(pixel_values, output_hidden_states=True, return_dict=True)
        chosen = [outputs.hidden_states[index][:, self.first_row :] for index in self.layers]
        features: torch.Tensor = self.projector(torch.cat(chosen, dim=-1))
        return features


class ProjectedVision(nn.Module):
    """A tower's last features and the projector, for square images of one size."""

    def __init__(self, tower: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map (images, 3, height, width) to (images, tokens, hidden)."""
        features: torch.Tensor = self.projector(self.tower(pixel_values).last_hidden_state)
        return features


class AnyResVision(nn.Module):
    """The features of single tiles, and the token that ends a row of them, once for each tile.

    How the tokens of tiles are put in rows depends on the picture's shape and is no part of the graph.
    """

    def __init__(self, tiles: nn.Module, newline: nn.Parameter) -> None:
        super().__init__()
        self.tiles = tiles
        self.newline = newline

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (images, 3, height, width) to (images, tokens, hidden) and (images, hidden)."""
        return self.tiles(pixel_values), self.newline.expand(pixel_values.shape[0], -1)


class FeatureMapVision(nn.Module):
    """A tower of timm that gives a map of features, and the projector of LLaVA over its places."""

    def __init__(self, tower: Any, projector: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map (images, 3, height, width) to (images, tokens, hidden)."""
        places = self.tower.forward_features(pixel_values).flatten(2).transpose(1, 2)
        features: torch.Tensor = self.projector(places)
        return features


class ShuffledVision(nn.Module):
    """InternVL's tower, the features of one layer, its pixel shuffle, and the projector."""

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__()
        self.tower = model.vision_tower
        self.projector = model.multi_modal_projector
        self.shuffle = model.pixel_shuffle
        self.ratio = config.downsample_ratio
        self.layer = config.vision_feature_layer
        self.first_row = 1 if config.vision_feature_select_strategy == "default" else 0

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map (images, 3, height, width) to (images, tokens, hidden)."""
        outputs = self.tower(pixel_values, output_hidden_states=True, return_dict=True)
        last = self.layer == -1
        chosen = outputs.last_hidden_state if last else outputs.hidden_states[self.layer]
        patches = chosen[:, self.first_row :]
        side = math.isqrt(patches.shape[1])
        shuffled = self.shuffle(patches.unflatten(1, (side, side)), scale_factor=self.ratio)
        features: torch.Tensor = self.projector(shuffled.flatten(1, 2))
        return features


def _full_grid_positions(tower: Any) -> torch.Tensor:
    """Return what the tower adds to the patches of a full tile, (1, patches, width)."""
    embeddings = tower.embeddings
    side = embeddings.num_patches_per_side
    size = side * embeddings.patch_size
    weight = embeddings.patch_embedding.weight
    blank = torch.zeros(1, weight.shape[1], size, size, dtype=weight.dtype)
    full = torch.ones(1, side, side, dtype=torch.bool)
    looked_up: list[torch.Tensor] = []
    # The tower's own look-up is listened to, so its bucketing rule is not repeated here.
    handle = embeddings.position_embedding.register_forward_hook(
        lambda _module, _inputs, output: looked_up.append(output.detach())
    )
    try:
        with torch.no_grad():
            embeddings(blank, patch_attention_mask=full)
    finally:
        handle.remove()
    return looked_up[0].clone()
