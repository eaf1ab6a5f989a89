"""FastVLM: a convolutional tower of timm and a two-layer projector in front of a Qwen decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.bundle import ImageGrid
from moir_edge.models.base import TileArchitecture
from moir_edge.models.registry import register

if TYPE_CHECKING:
    import torch

__all__ = ["FastVlm"]

_CELLS: Mapping[str, int] = {"fastvit_mci3": 64, "fastvit_mci4": 64}
"""Pixels along each side of what one feature shows, by timm's name of a tower; the config does not say."""


@register
class FastVlm(TileArchitecture):
    """`FastVlmForConditionalGeneration`; one tile per image, as large as `image_seq_length` features need it."""

    model_type: ClassVar[str] = "fast_vlm"
    towers: ClassVar[tuple[str, ...]] = ("timm_wrapper",)
    language_model: ClassVar[str] = "model.language_model"

    def config_problem(self, config: Any) -> str | None:
        """Refuse towers whose grid is unknown, and a number of features that is not a square."""
        tower = _tower(config)
        if tower not in _CELLS:
            return (
                f"vision_config.architecture {tower!r} is not a tower whose grid export knows (known: "
                f"{', '.join(_CELLS)}); retrofit and tune accept it"
            )
        if math.isqrt(config.image_seq_length) ** 2 != config.image_seq_length:
            return f"image_seq_length is {config.image_seq_length}, expected a square; correct config.json"
        return None

    def image_size(self, config: Any) -> int:
        """Return the side of the tile whose features fill `image_seq_length`, in px."""
        return math.isqrt(config.image_seq_length) * _CELLS[_tower(config)]

    def image_grid(self, config: Any) -> ImageGrid:
        """Return the square of features."""
        side = math.isqrt(config.image_seq_length)
        return ImageGrid(side=side, cell=1 / side)

    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return the tower without its pooling, and the projector."""
        from moir_edge.models.vision import FeatureMapVision

        return FeatureMapVision(
            model.model.vision_tower.timm_model, model.model.multi_modal_projector
        )


def _tower(config: Any) -> str:
    """Return timm's name of the tower without that of its weights."""
    return str(config.vision_config.architecture).partition(".")[0]
