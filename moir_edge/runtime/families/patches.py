"""Qwen2-VL and Qwen2.5-VL: an image is a grid of patches of its own shape, and its tokens have rows and columns for positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import BundleError, DataError
from moir_edge.runtime.families.base import Family, ImageTokens
from moir_edge.runtime.families.registry import register
from moir_edge.runtime.families.samples import smooth_picture
from moir_edge.runtime.families.settings import FamilySettings, family_settings
from moir_edge.runtime.image_processor import ImageShape, ProcessedImage, View
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
from moir_edge.runtime.patch_grid import as_patches, grid_places, rotary_tables, window_tables

__all__ = ["PatchFamily", "PatchSettings", "QwenVl"]


class PatchSettings(FamilySettings):
    """Settings of the config that the host needs.

    Attributes:
        patch_size: Side of a patch in px.
        frames: Copies of a still picture in a patch.
        merge_size: Side of a block of patches that becomes one image token.
        head_dim: Width of a head of the tower.
        rotary_base: Base of the wavelengths of the tower's rotary embedding.
        window: Side of a window of attention, in blocks; None where the tower has none.
    """

    patch_size: Annotated[int, Field(ge=1, le=256)]
    frames: Annotated[int, Field(ge=1, le=4)]
    merge_size: Annotated[int, Field(ge=1, le=16)]
    head_dim: Annotated[int, Field(ge=4, le=1024, multiple_of=4)]
    rotary_base: Annotated[float, Field(gt=1, le=1e12)]
    window: Annotated[int, Field(ge=1, le=64)] | None = None


class PatchFamily(Family):
    """An image of any number of patches, one run of `vision` for each, and positions on three axes.

    Args:
        facts: What the manifest says of the model.

    Raises:
        BundleError: A setting of the family is missing or out of range.

    Attributes:
        kind: What the family's settings are.
    """

    kind: ClassVar[type[PatchSettings]] = PatchSettings

    def __init__(self, facts: ModelFacts) -> None:
        super().__init__(facts)
        self.options: PatchSettings = family_settings(facts, self.kind)

    def placeholders(self, tokens: ImageTokens, image: ImageShape) -> str:
        """Return one image token for each block of patches; the chat template writes what stands around them."""
        return tokens.image * self.token_count(image)

    def token_count(self, image: ImageShape) -> int:
        """Return the blocks of an image."""
        rows, columns = self.token_grid(image)
        return rows * columns

    def token_grid(self, image: ImageShape) -> tuple[int, int]:
        """Return (rows, columns) of an image's tokens."""
        return image.rows // self.options.merge_size, image.columns // self.options.merge_size

    def sample_image(self, random: np.random.Generator) -> ProcessedImage:
        """Return an image of odd shape that the windows of the tower do not fit."""
        options, side = self.options, self.options.window or 1
        blocks = (side + 1, side + 2) if random.random() < 0.5 else (side + 2, side + 1)
        rows, columns = (blocks[0] * options.merge_size, blocks[1] * options.merge_size)
        picture = smooth_picture(random, rows * options.patch_size, columns * options.patch_size)
        patches = as_patches(picture, options.patch_size, options.merge_size, options.frames)
        return ProcessedImage(pixel_values=patches, shape=self._shape(rows, columns))

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
            self._shape(int(rows), int(columns)) for _, rows, columns in inputs["image_grid_thw"]
        )
        places = int((input_ids == self.facts.image_token_id).sum())
        tokens = sum(map(self.token_count, shapes))
        if places != tokens or len(pixels) != tokens * self.options.merge_size**2:
            raise DataError(
                f"images of {tokens} image tokens for {places} places in the prompt and {len(pixels)} patches; "
                "take ids, pixel_values and image_grid_thw from one processor call"
            )
        return pixels, shapes

    def vision_feeds(
        self, pixels: Floats, images: Sequence[ImageShape], most: int
    ) -> Iterator[Mapping[str, Array]]:
        """Yield patches and tables of one image after the other."""
        del most
        done = 0
        for image in images:
            end = done + image.rows * image.columns
            yield {"pixel_values": pixels[done:end], **self.tables(image)}
            done = end

    def tables(self, image: ImageShape) -> dict[str, Array]:
        """Return what the tower is told of an image's grid, by the names of the graph's inputs."""
        options = self.options
        places = grid_places(image.rows, image.columns, options.merge_size)
        cos, sin = rotary_tables(places, options.head_dim, options.rotary_base)
        return {"rotary_cos": cos, "rotary_sin": sin}

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

    def _shape(self, rows: int, columns: int) -> ImageShape:
        patch, merge = self.options.patch_size, self.options.merge_size
        view = View(kind="whole", grid=(rows // merge, columns // merge))
        size = (rows * patch, columns * patch)
        return ImageShape(rows=rows, columns=columns, views=(view,), size=size)


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
