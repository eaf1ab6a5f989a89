"""Granite-Docling: SmolVLM's kind of tiles, DeepStack features, and a Granite decoder that divides its logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.bundle import ImageGrid, TensorSpec
from moir_edge.models.base import TileArchitecture
from moir_edge.models.deepstack import DeepstackArchitecture
from moir_edge.models.registry import register
from moir_edge.runtime.families.deepstack import DEEPSTACK_EMBEDS

if TYPE_CHECKING:
    import torch

    from moir_edge.runtime.interface import PromptArrays

__all__ = ["GraniteDocling"]


@register
class GraniteDocling(DeepstackArchitecture, TileArchitecture):
    """`GraniteDoclingForConditionalGeneration` on the coarse path of its connector, which `generate` takes by itself."""

    model_type: ClassVar[str] = "granite_docling"
    towers: ClassVar[tuple[str, ...]] = ("granite_docling_vision",)
    language_model: ClassVar[str] = "model.text_model"

    def processor_problem(self, record: Mapping[str, Any], config: Any) -> str | None:
        """Refuse the fine path, which has four times as many image tokens."""
        del config
        if record["image_processor"].get("fine_route"):
            return (
                "its image processor has fine_route true, and export takes the coarse path of the connector; "
                "set fine_route to false"
            )
        return None

    def image_grid(self, config: Any) -> ImageGrid:
        """Return the patches of one tile, squares of them made one token each by the pixel shuffle."""
        cell = int(config.vision_config.patch_size) * int(config.vision_config.scale_factor)
        return ImageGrid(side=self.image_size(config) // cell, cell=cell / self.image_size(config))

    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return tower, connector and DeepStack mergers."""
        from moir_edge.models.docling_vision import DoclingVision

        return DoclingVision(model.model.vision_model)

    def vision_outputs(self, config: Any) -> tuple[TensorSpec, ...]:
        """Return the features of tiles, and their DeepStack features (images, tokens per tile, levels, hidden)."""
        (features,) = super().vision_outputs(config)
        shape = (*features.shape[:-1], self.levels(config), features.shape[-1])
        return (features, TensorSpec(name=DEEPSTACK_EMBEDS, dtype="float32", shape=shape))

    def after_head(self, logits: torch.Tensor, config: Any) -> torch.Tensor:
        """Return the logits divided by the config's `logits_scaling`."""
        scaled: torch.Tensor = logits / config.text_config.logits_scaling
        return scaled

    def torch_inputs(self, inputs: PromptArrays) -> dict[str, torch.Tensor]:
        """Return the tiles (rows, tiles per row, 3, height, width), none of which fills a row up."""
        import torch

        found = super().torch_inputs(inputs)
        if found:
            shape = found["pixel_values"].shape[:2]
            found["pixel_attention_mask"] = torch.ones(shape, dtype=torch.bool)
        return found

    def model_pixels(self, tiles: torch.Tensor, rows: int) -> torch.Tensor:
        """Return (rows, tiles per row, 3, height, width)."""
        return tiles.reshape(rows, -1, *tiles.shape[1:])
