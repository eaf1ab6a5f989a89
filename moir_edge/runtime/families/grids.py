"""Base of the families whose images are grids of patches of their own shape, with one run of `vision` for each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.runtime.families.base import Family, ImageTokens
from moir_edge.runtime.families.samples import smooth_picture
from moir_edge.runtime.families.settings import FamilySettings, family_settings
from moir_edge.runtime.image_processor import ImageShape, ProcessedImage, View
from moir_edge.runtime.interface import Array, Floats
from moir_edge.runtime.patch_grid import as_patches, grid_places, rotary_tables

__all__ = ["GridFamily", "PatchSettings"]


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


class GridFamily(Family):
    """An image of any number of patches, whose square blocks become one image token each.

    Args:
        facts: What the manifest says of the model.

    Raises:
        BundleError: A setting of the family is missing or out of range.

    Attributes:
        kind: What the family's settings are.
        alternating: Whether rows and columns of patches turn by wavelengths of their own; see `rotary_tables`.
    """

    kind: ClassVar[type[PatchSettings]] = PatchSettings
    alternating: ClassVar[bool] = False

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
        return ProcessedImage(pixel_values=patches, shape=self.shape_of(rows, columns))

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
        cos, sin = rotary_tables(
            places, options.head_dim, options.rotary_base, alternating=self.alternating
        )
        return {"rotary_cos": cos, "rotary_sin": sin}

    def shape_of(self, rows: int, columns: int) -> ImageShape:
        """Return the shape of a picture of so many rows and columns of patches."""
        patch, merge = self.options.patch_size, self.options.merge_size
        view = View(kind="whole", grid=(rows // merge, columns // merge))
        size = (rows * patch, columns * patch)
        return ImageShape(rows=rows, columns=columns, views=(view,), size=size)
