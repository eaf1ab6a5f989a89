"""Qwen2-VL and Qwen2.5-VL: an image is a grid of patches of its own shape, and its tokens have rows and columns for positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import BundleError, DataError
from moir_edge.runtime.families.grids import GridFamily
from moir_edge.runtime.families.registry import register
from moir_edge.runtime.image_processor import ImageShape
from moir_edge.runtime.interface import (
    Array,
    DecoderInputs,
    Floats,
    ImageFeatures,
    Ints,
    PromptArrays,
    Sessions,
)
from moir_edge.runtime.mrope import mrope_positions
from moir_edge.runtime.patch_grid import window_tables

__all__ = ["PatchFamily", "QwenVl"]


class PatchFamily(GridFamily):
    """Image tokens with positions on three axes: time, row and column."""

    def from_transformers(
        self, inputs: Mapping[str, Array], input_ids: Ints
    ) -> tuple[Floats, tuple[ImageShape, ...]] | None:
        """Read ``pixel_values`` (patches, values of a patch) and ``image_grid_thw`` (images, 3)."""
        if "pixel_values_videos" in inputs:
            raise DataError("videos were given, and bundles take images; leave the videos out")
        pixels = inputs.get("pixel_values")
        if pixels is None:
            return None
        if "image_grid_thw" not in inputs:
            raise DataError(
                "pixel_values came without image_grid_thw; take both from one processor call"
            )
        shapes = tuple(
            self.shape_of(int(rows), int(columns)) for _, rows, columns in inputs["image_grid_thw"]
        )
        places = int((input_ids == self.facts.image_token_id).sum())
        tokens = sum(map(self.token_count, shapes))
        if places != tokens or len(pixels) != tokens * self.options.merge_size**2:
            raise DataError(
                f"images of {tokens} image tokens for {places} places in the prompt and {len(pixels)} patches; "
                "take ids, pixel_values and image_grid_thw from one processor call"
            )
        return pixels, shapes

    def decoder_inputs(
        self, inputs: PromptArrays, features: ImageFeatures | None, sessions: Sessions
    ) -> DecoderInputs:
        """Return the mask, and positions by time, row and column."""
        del features, sessions
        positions, following = mrope_positions(
            inputs.input_ids == self.facts.image_token_id,
            inputs.attention_mask,
            [self.token_grid(image) for image in inputs.images],
        )
        return DecoderInputs(
            attention_mask=inputs.attention_mask, position_ids=positions, next_positions=following
        )

    def torch_positions(self, attention_mask: Ints) -> Ints | None:
        """Return None: the model finds the positions from the images' grids."""
        del attention_mask
        return None


@register
class QwenVl(PatchFamily):
    """Qwen2-VL, whose patches all see each other, and Qwen2.5-VL, with square windows in most layers."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl")

    def __init__(self, facts: ModelFacts) -> None:
        super().__init__(facts)
        windows = facts.model_type == "qwen2_5_vl"
        if windows != (self.options.window is not None):
            raise BundleError(
                f"the manifest's model.family.window of a {facts.model_type} is {self.options.window}, expected "
                f"{'a number of blocks' if windows else 'none'}; export the bundle again"
            )

    def tables(self, image: ImageShape) -> dict[str, Array]:
        """Return the rotary tables, and which patches stand in one window."""
        found = super().tables(image)
        if self.options.window is None:
            return found
        patches, held, places = window_tables(
            image.rows, image.columns, self.options.merge_size, self.options.window
        )
        return {**found, "window_patches": patches, "window_mask": held, "window_places": places}
