"""LLaVA 1.5: a CLIP (or SigLIP) tower, features of chosen layers and a two-layer projector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.bundle import ImageGrid
from moir_edge.models.base import TileArchitecture
from moir_edge.models.registry import register

if TYPE_CHECKING:
    import torch

__all__ = ["Llava", "VipLlava"]


@register
class Llava(TileArchitecture):
    """`LlavaForConditionalGeneration`; one tile per image."""

    model_type: ClassVar[str] = "llava"
    towers: ClassVar[tuple[str, ...]] = ("clip_vision_model", "siglip_vision_model")
    language_model: ClassVar[str] = "model.language_model"

    def drops_first(self, config: Any) -> bool:
        """Return whether the first row of the tower's features is left out."""
        return bool(config.vision_feature_select_strategy == "default")

    def feature_layers(self, config: Any) -> int | Sequence[int]:
        """Return the tower's layers whose features are taken."""
        found: int | Sequence[int] = config.vision_feature_layer
        return found

    def image_grid(self, config: Any) -> ImageGrid:
        """Return the tower's patches; `default` drops its first row of features, a class token only if it has one."""
        patch = int(config.vision_config.patch_size)
        side = self.image_size(config) // patch
        has_class_token = config.vision_config.model_type.startswith("clip")
        dropped = int(self.drops_first(config))
        return ImageGrid(
            side=side,
            first=dropped - int(has_class_token),
            cell=patch / self.image_size(config),
        )

    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return tower, feature selection and projector."""
        from moir_edge.models.vision import SelectedLayersVision

        return SelectedLayersVision(
            model.model.vision_tower,
            model.model.multi_modal_projector,
            layers=self.feature_layers(model.config),
            drop_class_token=self.drops_first(model.config),
        )


@register
class VipLlava(Llava):
    """`VipLlavaForConditionalGeneration`: LLaVA with features of several layers, always without the class token."""

    model_type: ClassVar[str] = "vipllava"
    towers: ClassVar[tuple[str, ...]] = ("clip_vision_model",)

    def drops_first(self, config: Any) -> bool:
        """Return True: the model has no choice of strategy."""
        del config
        return True

    def feature_layers(self, config: Any) -> int | Sequence[int]:
        """Return the tower's layers; transformers up to 5.23 calls them `vision_feature_layers`."""
        found: int | Sequence[int] | None = getattr(config, "vision_feature_layer", None)
        return config.vision_feature_layers if found is None else found
