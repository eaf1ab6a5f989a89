"""LLaVA-NeXT and LLaVA-OneVision: a picture's overview, then the tokens of its tiles in rows, each with its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import BundleError, DataError
from moir_edge.limits import IMAGE_EDGE
from moir_edge.runtime.anyres import TokenGrid, best_resolution, packed, token_grid
from moir_edge.runtime.families.base import ImageTokens, pixels_and_sizes
from moir_edge.runtime.families.registry import register
from moir_edge.runtime.families.samples import smooth_picture
from moir_edge.runtime.families.settings import FamilySettings, family_settings
from moir_edge.runtime.families.tiles import TileFamily
from moir_edge.runtime.image_processor import ImageShape, ProcessedImage, View
from moir_edge.runtime.interface import Array, Embeds, Floats, ImageFeatures, Ints, Sessions

__all__ = ["AnyRes", "AnyResSettings"]

_Edge = Annotated[int, Field(ge=1, le=IMAGE_EDGE)]
_SAMPLE_ASPECT = 0.7  # of a parity sample to its canvas: some rows or columns are cut off


class AnyResSettings(FamilySettings):
    """Settings of the config that the host needs.

    Attributes:
        canvases: (height, width) in px of each canvas that pictures are fitted to.
        most_tiles: Tokens of so many tiles are kept of one picture, those of more are interpolated; None keeps all.
    """

    canvases: Annotated[tuple[tuple[_Edge, _Edge], ...], Field(min_length=1, max_length=256)]
    most_tiles: Annotated[int, Field(ge=1, le=1024)] | None = None


@register
class AnyRes(TileFamily):
    """A picture of tiles has an overview and rows of tokens; one without tiles has one token behind its square.

    Args:
        facts: What the manifest says of the model.

    Raises:
        BundleError: A setting of the family is missing or out of range, or a canvas is not made of whole tiles.
    """

    model_types: ClassVar[tuple[str, ...]] = ("llava_next", "llava_onevision")

    def __init__(self, facts: ModelFacts) -> None:
        super().__init__(facts)
        self.options = family_settings(facts, AnyResSettings)
        if facts.grid.first != 0 or facts.grid.side**2 != self.tokens_per_tile:
            raise BundleError(
                f"the manifest of a {facts.model_type} has tiles of {self.tokens_per_tile} image tokens in a grid of "
                f"{facts.grid.side} from {facts.grid.first}, expected a square from 0; export the bundle again"
            )
        for canvas in self.options.canvases:
            if canvas[0] % self.side or canvas[1] % self.side:
                raise BundleError(
                    f"the manifest's model.family.canvases hold {list(canvas)}, which is not made of whole tiles of "
                    f"{self.side} pixels; export the bundle again"
                )

    def placeholders(self, tokens: ImageTokens, image: ImageShape) -> str:
        """Return one image token for each row of features, those that end rows among them."""
        return tokens.image * self.token_count(image)

    def token_count(self, image: ImageShape) -> int:
        """Return the tokens of the overview and of the rows, or of the square and its end."""
        grid = self._grid(image)
        return self.tokens_per_tile + (1 if grid is None else grid.tokens)

    def views(self, image: ImageShape) -> tuple[View, ...]:
        """Return the overview and the rows of the picture's part on its canvas, or the square and its end."""
        grid = self._grid(image)
        if grid is None:
            return (*image.views, View(kind=image.views[0].kind, grid=(1, 0), newline=True))
        rows = View(kind="whole", box=grid.box, grid=(grid.rows, grid.columns), newline=True)
        return (View(kind="global"), rows)

    def sample_image(self, random: np.random.Generator) -> ProcessedImage:
        """Return the picture of fewest tokens among those that leave a part of a canvas free."""
        shapes = [
            self.shape_of((max(1, int(height * down)), max(1, int(width * across))))
            for height, width in self.options.canvases
            for down, across in ((1, _SAMPLE_ASPECT), (_SAMPLE_ASPECT, 1))
        ]
        shape = min(shapes, key=self.token_count)
        pictures = [smooth_picture(random, self.side, self.side) for _ in range(_tiles(shape))]
        return ProcessedImage(pixel_values=np.stack(pictures), shape=shape)

    def from_transformers(
        self, inputs: Mapping[str, Array], input_ids: Ints
    ) -> tuple[Floats, tuple[ImageShape, ...]] | None:
        """Read ``pixel_values`` (images, tiles, 3, height, width), filled up to the most tiles, and ``image_sizes``."""
        given = pixels_and_sizes(inputs)
        if given is None:
            return None
        pixels, sizes = given
        together = inputs.get("batch_num_images", np.ones(len(sizes), np.int64))
        alone = [count == 1 for count in together for _ in range(int(count))]
        shapes = tuple(
            self.shape_of(size) if whole else _square(size)
            for size, whole in zip(sizes, alone, strict=True)
        )
        if pixels.ndim == 5:
            parts = zip(pixels, shapes, strict=True)
            pixels = np.concatenate([image[: _tiles(shape)] for image, shape in parts])
        places = int((input_ids == self.facts.image_token_id).sum())
        tokens, tiles = sum(map(self.token_count, shapes)), sum(map(_tiles, shapes))
        if places != tokens or len(pixels) != tiles:
            raise DataError(
                f"images of {tokens} image tokens and {tiles} tiles for {places} places in the prompt and "
                f"{len(pixels)} tiles; take ids, pixel_values and image_sizes from one processor call"
            )
        return pixels, shapes

    def assembled(
        self,
        runs: Sequence[Mapping[str, Embeds]],
        images: Sequence[ImageShape],
        sessions: Sessions,
    ) -> ImageFeatures:
        """Put the tokens of each picture's tiles in rows, on the host."""
        parts = [sessions.to_numpy(run["image_features"]) for run in runs]
        tiles = parts[0] if len(parts) == 1 else np.concatenate(parts)
        newline = sessions.to_numpy(runs[0]["image_newline"])[0]
        rows: list[Floats] = []
        done = 0
        for image in images:
            own = tiles[done : done + _tiles(image)]
            grid = self._grid(image)
            rest = newline[None] if grid is None else packed(own[1:], newline, grid)
            rows += [own[0], rest]
            done += len(own)
        return ImageFeatures(features=sessions.from_numpy(np.concatenate(rows)))

    def _grid(self, image: ImageShape) -> TokenGrid | None:
        """Return how the tokens of a picture's tiles lie; None where it has no tiles."""
        if image.rows == 0:
            return None
        return token_grid(
            image.size,
            (image.rows * self.side, image.columns * self.side),
            tile=self.side,
            side=self.facts.grid.side,
            most_tiles=self.options.most_tiles,
        )

    def shape_of(self, size: tuple[int, int]) -> ImageShape:
        """Return the shape of a picture of (height, width) px on its canvas."""
        height, width = best_resolution(size, self.options.canvases)
        rows, columns = height // self.side, width // self.side
        return ImageShape(rows=rows, columns=columns, views=(View(kind="global"),), size=size)


def _square(size: tuple[int, int]) -> ImageShape:
    return ImageShape(rows=0, columns=0, views=(View(kind="crop"),), size=size)


def _tiles(image: ImageShape) -> int:
    """Return the tiles of a picture, its overview or square among them."""
    return image.rows * image.columns + 1
