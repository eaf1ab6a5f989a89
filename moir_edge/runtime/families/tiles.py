"""Families whose images become square tiles of one size, each with the same number of image tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import BundleError, DataError
from moir_edge.runtime.families.base import Family, ImageTokens
from moir_edge.runtime.families.registry import register
from moir_edge.runtime.families.samples import smooth_picture
from moir_edge.runtime.image_processor import ImageShape, ProcessedImage, View
from moir_edge.runtime.interface import Array, Floats, Ints

__all__ = ["AyaVision", "InternVl", "Llava", "SmolVlm", "TileFamily"]


class TileFamily(Family):
    """Each view of an image is one tile, and each tile has `facts.tokens_per_tile` image tokens.

    Args:
        facts: What the manifest says of the model.

    Raises:
        BundleError: The manifest lacks the size of a tile or its number of tokens.
    """

    def __init__(self, facts: ModelFacts) -> None:
        super().__init__(facts)
        if facts.tokens_per_tile is None or facts.image_size is None:
            raise BundleError(
                f"the manifest of a {facts.model_type} lacks model.image_size or model.tokens_per_tile; export the bundle again"
            )
        self.tokens_per_tile: int = facts.tokens_per_tile
        self.side: int = facts.image_size

    def run(self, tokens: ImageTokens) -> str:
        """Return the image tokens of one tile."""
        return tokens.image * self.tokens_per_tile

    @abstractmethod
    def placeholders(self, tokens: ImageTokens, image: ImageShape) -> str:
        """Return the text that replaces one image token of a rendered prompt."""

    def token_count(self, image: ImageShape) -> int:
        """Return how many image tokens an image becomes."""
        return len(image.views) * self.tokens_per_tile

    def sample_image(self, random: np.random.Generator) -> ProcessedImage:
        """Return an image of one tile."""
        pixels = smooth_picture(random, self.side, self.side)[None]
        return ProcessedImage(pixel_values=pixels, shape=_one_tile(self.side))

    def from_transformers(
        self, inputs: Mapping[str, Array], input_ids: Ints
    ) -> tuple[Floats, tuple[ImageShape, ...]] | None:
        """Read ``pixel_values`` (rows, images, 3, height, width) or (images, 3, height, width), one shape for each tile.

        SmolVLM's processor fills rows of fewer images up with black ones, which have no tokens.
        """
        pixels = inputs.get("pixel_values")
        if pixels is None:
            return None
        tiles = pixels.reshape(-1, *pixels.shape[-3:])
        wanted = int((input_ids == self.facts.image_token_id).sum()) // self.tokens_per_tile
        if len(tiles) > wanted:
            tiles = tiles[np.any(tiles != 0, axis=(1, 2, 3))]
        if len(tiles) != wanted:
            raise DataError(
                f"{len(tiles)} image tiles for {wanted} places in the prompt "
                f"({self.tokens_per_tile} image tokens each); take both from one processor call"
            )
        return (tiles, (_one_tile(self.side),) * wanted) if wanted else None


def _one_tile(side: int) -> ImageShape:
    return ImageShape(rows=0, columns=0, views=(View(kind="whole"),), size=(side, side))


@register
class SmolVlm(TileFamily):
    """SmolVLM and Idefics 3: tiles row by row, each with its place, and the overview at the end."""

    model_types: ClassVar[tuple[str, ...]] = ("smolvlm", "idefics3")

    def placeholders(self, tokens: ImageTokens, image: ImageShape) -> str:
        """Return one line for each row of tiles, then the overview."""
        around = tokens.special_tokens.get("fake_image_token", "<fake_token_around_image>")
        overview = tokens.special_tokens.get("global_image_token", "<global-img>")
        run = self.run(tokens)
        whole = f"{around}{overview}{run}{around}"
        if image.rows == 0 and image.columns == 0:
            return whole
        lines = [
            "".join(
                f"{around}<row_{row + 1}_col_{column + 1}>{run}" for column in range(image.columns)
            )
            for row in range(image.rows)
        ]
        return "\n".join(lines) + "\n\n" + whole


@register
class InternVl(TileFamily):
    """InternVL: all tiles in one run between two tokens, the overview last."""

    model_types: ClassVar[tuple[str, ...]] = ("internvl",)

    def placeholders(self, tokens: ImageTokens, image: ImageShape) -> str:
        """Return the run of the tiles of a split image and its overview, or of the one tile."""
        start = tokens.special_tokens.get("start_image_token", "<img>")
        end = tokens.special_tokens.get("end_image_token", "</img>")
        tiles = image.rows * image.columns + 1
        return f"{start}{self.run(tokens) * tiles}{end}"


@register
class Llava(TileFamily):
    """LLaVA 1.5, VipLLaVA and FastVLM: one square for each image."""

    model_types: ClassVar[tuple[str, ...]] = ("fast_vlm", "llava", "vipllava")

    def placeholders(self, tokens: ImageTokens, image: ImageShape) -> str:
        """Return the run of the one tile."""
        del image
        return self.run(tokens)


@register
class AyaVision(TileFamily):
    """Aya Vision: each tile behind its number, the overview last, all between two tokens."""

    model_types: ClassVar[tuple[str, ...]] = ("aya_vision",)

    def image_mark(self, tokens: ImageTokens) -> str:
        """Return what templates write for an image: not the token that stands for a patch of it."""
        del tokens
        return "<image>"

    def placeholders(self, tokens: ImageTokens, image: ImageShape) -> str:
        """Return the tiles of a split image with their numbers, and the overview or the one tile."""
        run = self.run(tokens)
        tiles = "".join(f"TILE_{at + 1}{run}" for at in range(image.rows * image.columns))
        return f"<|START_OF_IMG|>{tiles}TILE_GLOBAL{run}<|END_OF_IMG|>"
