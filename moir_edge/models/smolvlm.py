"""SmolVLM of both generations: a SigLIP tower, pixel shuffle and one linear projection in front of a Llama decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.bundle import ImageGrid
from moir_edge.models.base import TileArchitecture
from moir_edge.models.registry import register

if TYPE_CHECKING:
    import torch

__all__ = ["Idefics3", "SmolVlm"]


@register
class SmolVlm(TileArchitecture):
    """`SmolVLMForConditionalGeneration`; a large image is cut into tiles, each one row of `vision`."""

    model_type: ClassVar[str] = "smolvlm"
    towers: ClassVar[tuple[str, ...]] = ("smolvlm_vision", "smolvlm")
    language_model: ClassVar[str] = "model.text_model"

    def image_grid(self, config: Any) -> ImageGrid:
        """Return the patches of one tile, squares of them made one token each by the pixel shuffle."""
        cell = int(config.vision_config.patch_size) * int(config.scale_factor)
        return ImageGrid(side=self.image_size(config) // cell, cell=cell / self.image_size(config))

    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return tower and connector with every patch valid."""
        from moir_edge.models.vision import PatchGridVision

        return PatchGridVision(model.model.vision_model, model.model.connector)

    def model_pixels(self, tiles: torch.Tensor, rows: int) -> torch.Tensor:
        """Return (rows, tiles per row, 3, height, width)."""
        return tiles.reshape(rows, -1, *tiles.shape[1:])


@register
class Idefics3(SmolVlm):
    """`Idefics3ForConditionalGeneration`: SmolVLM 256M, 500M and 2.2B of the first generation, with the same parts."""

    model_type: ClassVar[str] = "idefics3"
    towers: ClassVar[tuple[str, ...]] = ("idefics3_vision", "idefics3")
