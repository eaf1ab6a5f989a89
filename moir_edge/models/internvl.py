"""InternVL: its own tower, pixel shuffle and a two-layer projector in front of a Qwen or Llama decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.bundle import ImageGrid
from moir_edge.models.base import TileArchitecture
from moir_edge.models.registry import register

if TYPE_CHECKING:
    import torch

__all__ = ["InternVl"]


@register
class InternVl(TileArchitecture):
    """`InternVLForConditionalGeneration`; an image is resized to a canvas of tiles, its overview comes last."""

    model_type: ClassVar[str] = "internvl"
    towers: ClassVar[tuple[str, ...]] = ("internvl_vision",)
    language_model: ClassVar[str] = "model.language_model"

    def image_size(self, config: Any) -> int:
        """Return the side of a tile, in px."""
        return _side(config.vision_config.image_size)

    def image_grid(self, config: Any) -> ImageGrid:
        """Return the patches of one tile, squares of them made one token each by the pixel shuffle."""
        cell = _side(config.vision_config.patch_size) / config.downsample_ratio
        size = self.image_size(config)
        return ImageGrid(side=int(size / cell), cell=cell / size)

    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return tower, feature selection, pixel shuffle and projector."""
        from moir_edge.models.vision import ShuffledVision

        return ShuffledVision(model.model, model.config)


def _side(size: Any) -> int:
    """Return the side of a square that a config gives as one number or as (height, width)."""
    return int(size[0] if isinstance(size, list | tuple) else size)
