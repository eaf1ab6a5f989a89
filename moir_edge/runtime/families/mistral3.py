"""Mistral Small 3.x and Ministral 3: a picture's tokens in rows, each row with a token behind it that shows nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from moir_edge.errors import DataError
from moir_edge.runtime.families.base import ImageTokens, pixels_and_sizes
from moir_edge.runtime.families.grids import GridFamily, PatchSettings
from moir_edge.runtime.families.registry import register
from moir_edge.runtime.image_processor import ImageShape
from moir_edge.runtime.interface import Array, Floats, Ints
from moir_edge.runtime.patch_grid import as_patches

__all__ = ["ROW_END", "ROW_ENDS", "Mistral3"]

ROW_END, LAST_ROW_END = "[IMG_BREAK]", "[IMG_END]"
ROW_ENDS = {"image_break_token": ROW_END, "image_end_token": LAST_ROW_END}
"""The tokens behind the rows of a picture and behind its last one, by the processor's names for them.

Their embeddings are words of the vocabulary, not features of the tower. They are special tokens: a router leaves them alone.
"""


class Mistral3Settings(PatchSettings):
    """Settings of a tower with one frame and without windows."""

    frames: Annotated[int, Field(ge=1, le=1)]
    window: None = None


@register
class Mistral3(GridFamily):
    """Pixtral's patches, which all see each other; tokens count on by one, through rows and their ends."""

    model_types: ClassVar[tuple[str, ...]] = ("mistral3",)
    kind: ClassVar[type[PatchSettings]] = Mistral3Settings
    alternating: ClassVar[bool] = True

    def image_settings(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings with the tower's patches and blocks: the processor's call sets the image processor's aside."""
        options = self.options
        return {**record, "patch_size": options.patch_size, "merge_size": options.merge_size}

    def placeholders(self, tokens: ImageTokens, image: ImageShape) -> str:
        """Return the rows of image tokens, each with its end."""
        rows, columns = self.token_grid(image)
        row = tokens.image * columns
        return (row + ROW_END) * (rows - 1) + row + LAST_ROW_END

    def from_transformers(
        self, inputs: Mapping[str, Array], input_ids: Ints
    ) -> tuple[Floats, tuple[ImageShape, ...]] | None:
        """Read ``pixel_values`` (images, 3, height, width), filled up below and on the right, and ``image_sizes``."""
        given = pixels_and_sizes(inputs)
        if given is None:
            return None
        pixels, sizes = given
        shapes = tuple(self._shape_in(pixels, size) for size in sizes)
        places = int((input_ids == self.facts.image_token_id).sum())
        tokens = sum(map(self.token_count, shapes))
        if places != tokens or len(pixels) != len(shapes):
            raise DataError(
                f"{len(shapes)} image_sizes of {tokens} image tokens for {places} places in the prompt and {len(pixels)} images; "
                "take ids, pixel_values and image_sizes from one processor call"
            )
        patch, merge = self.options.patch_size, self.options.merge_size
        patches = [
            as_patches(image[:, :height, :width], patch, merge, 1)
            for image, (height, width) in zip(pixels, sizes, strict=True)
        ]
        return np.concatenate(patches), shapes

    def _shape_in(self, pixels: Floats, size: tuple[int, int]) -> ImageShape:
        """Return the shape of an image of (height, width) px that lies in the corner of a larger one."""
        patch, block = self.options.patch_size, self.options.patch_size * self.options.merge_size
        room = pixels.shape[2:]
        if any(
            edge % block or not block <= edge <= most for edge, most in zip(size, room, strict=True)
        ):
            raise DataError(
                f"image_sizes has an image of {size[0]}x{size[1]} pixels in pixel_values of {room[0]}x{room[1]}, expected "
                f"multiples of {block} that fit in; take both from one processor call"
            )
        return self.shape_of(size[0] // patch, size[1] // patch)
