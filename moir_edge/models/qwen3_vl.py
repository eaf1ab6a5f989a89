"""Qwen3-VL: a tower over patches of any number with DeepStack taps, and a decoder with positions on three axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.bundle import TensorSpec
from moir_edge.models.deepstack import DeepstackArchitecture
from moir_edge.models.qwen_vl import PatchArchitecture
from moir_edge.models.registry import register
from moir_edge.runtime.families.deepstack import DEEPSTACK_EMBEDS
from moir_edge.runtime.families.qwen3 import MOST_TABLE_SIDE

if TYPE_CHECKING:
    import torch

__all__ = ["Qwen3Vl"]


@register
class Qwen3Vl(DeepstackArchitecture, PatchArchitecture):
    """`Qwen3VLForConditionalGeneration`; a square table of positions is interpolated to each image's grid on the host."""

    model_type: ClassVar[str] = "qwen3_vl"
    towers: ClassVar[tuple[str, ...]] = ("qwen3_vl_vision",)

    def config_problem(self, config: Any) -> str | None:
        """Refuse a table of positions that is not a square, too."""
        positions, side = config.vision_config.num_position_embeddings, self.table_side(config)
        if not 1 <= side <= MOST_TABLE_SIDE or side**2 != positions:
            return (
                f"vision_config has num_position_embeddings {positions}, expected a square number up to "
                f"{MOST_TABLE_SIDE**2}; correct it in config.json"
            )
        return super().config_problem(config)

    def table_side(self, config: Any) -> int:
        """Return the side of the square table of positions."""
        return int(config.vision_config.num_position_embeddings**0.5)

    def family_facts(self, config: Any) -> dict[str, Any]:
        """Return the side of the table of positions, too."""
        return {**super().family_facts(config), "table_side": self.table_side(config)}

    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return the tower with its merger, and that of each tapped block."""
        from moir_edge.models.qwen3_vision import Qwen3Vision

        return Qwen3Vision(model.model.visual)

    def vision_inputs(self, config: Any) -> tuple[TensorSpec, ...]:
        """Return patches, entries of the table of positions and their shares, and the rotary tables."""
        pixels, *rotary = super().vision_inputs(config)
        return (
            pixels,
            TensorSpec(name="position_indices", dtype="int64", shape=("patches", 4)),
            TensorSpec(name="position_weights", dtype="float32", shape=("patches", 4)),
            *rotary,
        )

    def vision_outputs(self, config: Any) -> tuple[TensorSpec, ...]:
        """Return the features of an image, and its DeepStack features (rows, levels, hidden)."""
        (features,) = super().vision_outputs(config)
        shape = (features.shape[0], self.levels(config), features.shape[1])
        return (features, TensorSpec(name=DEEPSTACK_EMBEDS, dtype="float32", shape=shape))
