"""LLaVA 1.5: a CLIP (or SigLIP) tower, features of chosen layers and a two-layer projector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.models.base import Architecture
from moir_edge.models.registry import register

if TYPE_CHECKING:
    import torch

__all__ = ["Llava"]


@register
class Llava(Architecture):
    """`LlavaForConditionalGeneration`; one tile per image."""

    model_type: ClassVar[str] = "llava"
    language_model: ClassVar[str] = "model.language_model"

    def image_size(self, config: Any) -> int:
        """Return the side of the image, in px."""
        return int(config.vision_config.image_size)

    def tokens_per_tile(self, config: Any) -> int:
        """Return the patches, and the class token's row where the selection keeps it."""
        side = self.image_size(config) // int(config.vision_config.patch_size)
        has_class_token = config.vision_config.model_type.startswith("clip")
        kept = int(has_class_token) - int(config.vision_feature_select_strategy == "default")
        return side**2 + kept

    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return tower, feature selection and projector."""
        from moir_edge.export.vision import SelectedLayersVision

        return SelectedLayersVision(
            model.model.vision_tower,
            model.model.multi_modal_projector,
            layers=model.config.vision_feature_layer,
            drop_class_token=model.config.vision_feature_select_strategy == "default",
        )

    def model_pixels(self, tiles: torch.Tensor, rows: int) -> torch.Tensor:
        """Return (images, 3, height, width): the tiles as they are."""
        del rows
        return tiles
