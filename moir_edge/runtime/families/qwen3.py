"""Qwen3-VL: grids of patches whose positions are interpolated from a square table, and DeepStack features of each image."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.runtime.families.deepstack import DeepstackFamily, Levels
from moir_edge.runtime.families.grids import PatchSettings
from moir_edge.runtime.families.patches import PatchFamily
from moir_edge.runtime.families.registry import register
from moir_edge.runtime.families.settings import family_settings
from moir_edge.runtime.image_processor import ImageShape
from moir_edge.runtime.interface import Array
from moir_edge.runtime.interpolation import interpolation_tables
from moir_edge.runtime.patch_grid import grid_places

__all__ = ["MOST_TABLE_SIDE", "Qwen3Settings", "Qwen3Vl"]

MOST_TABLE_SIDE = 1024
"""Side of a square table of positions at most; models in use have 48."""


class Qwen3Settings(PatchSettings):
    """Settings that the host takes from the config.

    Attributes:
        levels: How many blocks of the tower are tapped.
        table_side: Side of the square table of positions.
    """

    window: None = None
    levels: Levels
    table_side: Annotated[int, Field(ge=1, le=MOST_TABLE_SIDE)]


@register
class Qwen3Vl(DeepstackFamily, PatchFamily):
    """One run of `vision` for each image, which is told where its patches lie on the table of positions.

    Args:
        facts: What the manifest says of the model.

    Raises:
        BundleError: A setting of the family is missing or out of range.
    """

    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl",)
    kind: ClassVar[type[PatchSettings]] = Qwen3Settings

    def __init__(self, facts: ModelFacts) -> None:
        super().__init__(facts)
        self.own = family_settings(facts, Qwen3Settings)
        self.levels = self.own.levels

    def tables(self, image: ImageShape) -> dict[str, Array]:
        """Return the rotary tables, and the entries around each patch with their shares."""
        size = (image.rows, image.columns)
        places = grid_places(*size, self.own.merge_size)
        indices, weights = interpolation_tables(places, size, self.own.table_side)
        return {
            **super().tables(image),
            "position_indices": indices,
            "position_weights": weights,
        }
