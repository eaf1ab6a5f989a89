"""Aya Vision: a SigLIP tower, pixel shuffle and a gated projector in front of a Cohere decoder of sliding and full layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.bundle import ImageGrid
from moir_edge.models.base import TileArchitecture
from moir_edge.models.registry import register

if TYPE_CHECKING:
    import torch

__all__ = ["AyaVision"]

# What the host writes into prompts, under the names by which a processor may say otherwise.
_TOKENS = {
    "image_token": "<image>",
    "start_of_img_token": "<|START_OF_IMG|>",
    "end_of_img_token": "<|END_OF_IMG|>",
    "img_patch_token": "<|IMG_PATCH|>",
    "tile_token": "TILE",
    "tile_global_token": "TILE_GLOBAL",
}


@register
class AyaVision(TileArchitecture):
    """`AyaVisionForConditionalGeneration`; unlike Cohere's own language models, it does not scale its logits."""

    model_type: ClassVar[str] = "aya_vision"
    towers: ClassVar[tuple[str, ...]] = ("siglip_vision_model",)
    language_model: ClassVar[str] = "model.language_model"

    def processor_problem(self, record: Mapping[str, Any], config: Any) -> str | None:
        """Refuse a processor that writes other words around tiles than the host does."""
        del config
        for name, token in _TOKENS.items():
            given = record.get(name, token)
            if given != token:
                return f"its processor has {name} {given!r}, export supports {token!r}; take the processor of the base model"
        return None

    def image_grid(self, config: Any) -> ImageGrid:
        """Return the patches of one tile, squares of them made one token each by the pixel shuffle."""
        cell = int(config.vision_config.patch_size) * int(config.downsample_factor)
        size = self.image_size(config)
        return ImageGrid(side=size // cell, cell=cell / size)

    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return tower, feature selection, pixel shuffle and projector."""
        from torch import nn

        from moir_edge.models.vision import SelectedLayersVision

        # The projector keeps rows and columns apart.
        projector = nn.Sequential(model.model.multi_modal_projector, nn.Flatten(1, 2))
        return SelectedLayersVision(
            model.model.vision_tower,
            projector,
            layers=model.config.vision_feature_layer,
            drop_class_token=model.config.vision_feature_select_strategy == "default",
        )
