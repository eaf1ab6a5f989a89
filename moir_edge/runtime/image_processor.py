"""Base of the image processors: resize, cut and normalise within a bound on memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from moir_edge.errors import DataError
from moir_edge.image_limit import image_pixels
from moir_edge.limits import MAX_IMAGE_PIXELS
from moir_edge.runtime.image_config import Settings, check_image_config
from moir_edge.runtime.image_geometry import WHOLE, Box, level_table

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "ImageProcessor",
    "ImageShape",
    "ProcessedImage",
    "View",
    "whole_image",
]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Those of CLIP's processor, which most others have taken over."""


# A long, thin image may become larger than the largest image by this factor, not gigabytes.
_ROOM = 3


@dataclass(frozen=True, kw_only=True)
class View:
    """One block of image tokens, and the part of the image that it shows.

    Attributes:
        kind: `whole` image, one `tile` of a split image, its `global` overview, or a centre `crop`.
        row: Row of the tile, 0 otherwise.
        column: Column of the tile, 0 otherwise.
        box: (left, top, right, bottom) in the upright image, as fractions of its width and height.
        grid: Rows and columns of its image tokens; None for the square grid of the model's tiles.
        newline: Whether a token that shows nothing ends each row of `grid`.
    """

    kind: Literal["whole", "tile", "global", "crop"]
    row: int = 0
    column: int = 0
    box: Box = WHOLE
    grid: tuple[int, int] | None = None
    newline: bool = False

    @property
    def tokens(self) -> int:
        """Image tokens of `grid`, with those that end its rows; 0 where it has none of its own."""
        return 0 if self.grid is None else self.grid[0] * (self.grid[1] + self.newline)


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """The cut of one image.

    Attributes:
        rows: Rows of tiles, 0 where the image was not split; rows of patches where images have no tiles.
        columns: Columns of the same.
        views: Its blocks of image tokens, in the order of the prompt.
        size: (height, width) of the upright picture as it was given, px.
    """

    rows: int
    columns: int
    views: tuple[View, ...]
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ProcessedImage:
    """One image, ready for the vision graph.

    Attributes:
        pixel_values: (tiles, 3, height, width) or (patches, values) float32, normalised.
        shape: How it was cut.
    """

    pixel_values: npt.NDArray[np.float32]
    shape: ImageShape


class ImageProcessor(ABC):
    """Resize, cut and normalise images by the rules of one Hugging Face image processor.

    Args:
        config: The image processor's JSON object; what it leaves out takes the family's default.
        max_pixels: Pixels of the largest image; None takes `moir_edge.image_limit.image_pixels`.
        max_tiles: Tiles that the model's context has room for; None sets no bound.
    """

    settings: ClassVar[Settings] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        max_pixels: int | None = None,
        max_tiles: int | None = None,
    ) -> None:
        self._max_pixels = max_pixels
        self.max_tiles = max_tiles
        given = {key: value for key, value in config.items() if value is not None}
        self.config: dict[str, Any] = {**_COMMON_DEFAULTS, **self.defaults, **given}
        check_image_config(self.config, self.settings)
        self.resample = Image.Resampling(int(self.config["resample"]))
        self._levels = level_table(self.config)

    @abstractmethod
    def __call__(self, image: Image.Image) -> ProcessedImage:
        """Process one upright RGB image."""

    def together(self, image: Image.Image) -> ProcessedImage:
        """Process one of several images of a prompt; most models take it as they take one alone."""
        return self(image)

    def resize(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """Return `image` resized to (height, width).

        Raises:
            DataError: The result would be unreasonably large, as for a very long, thin image.
        """
        height, width = size
        # Rows are resized first, and columns of the result then.
        between = width * image.height if (width, height) != image.size else 0
        self.check_room(image, width, height, between)
        return image.resize((width, height), resample=self.resample)

    def check_tiles(self, tiles: int) -> None:
        """Refuse an image of more tiles than the model's context has room for.

        Raises:
            DataError: It has more.
        """
        if self.max_tiles is not None and tiles > self.max_tiles:
            raise DataError(
                f"an image becomes {tiles} tiles, the model's context has room for {self.max_tiles}; "
                "crop it to a less extreme shape"
            )

    def tiled(
        self,
        canvas: Image.Image,
        overview: Image.Image,
        size: tuple[int, int],
        tiles: tuple[int, int],
        given: Image.Image,
    ) -> ProcessedImage:
        """Cut an image into rows of tiles, one at a time, followed by a resized overview.

        Args:
            canvas: Exactly as large as its tiles.
            overview: What the overview is resized from.
            size: (height, width) of a tile.
            tiles: Rows and columns of tiles.
            given: The upright picture as it was given.
        """
        (height, width), (rows, columns) = size, tiles
        views = [
            View(
                kind="tile",
                row=row,
                column=column,
                box=(column / columns, row / rows, (column + 1) / columns, (row + 1) / rows),
            )
            for row in range(rows)
            for column in range(columns)
        ]

        def images() -> Iterator[Image.Image]:
            for view in views:
                left, top = view.column * width, view.row * height
                yield canvas.crop((left, top, left + width, top + height))
            yield self.resize(overview, size)

        return ProcessedImage(
            pixel_values=self.normalise(images(), len(views) + 1),
            shape=ImageShape(
                rows=rows,
                columns=columns,
                views=(*views, View(kind="global")),
                size=(given.height, given.width),
            ),
        )

    def squared(self, image: Image.Image) -> tuple[Image.Image, Box]:
        """Pad an image to a square of the mean colour, itself in the middle.

        Returns:
            The square, and its box as fractions of the image.
        """
        side = max(image.width, image.height)
        self.check_room(image, side, side)
        left, top = (side - image.width) // 2, (side - image.height) // 2
        colour = tuple(int(mean * 255) for mean in self.config["image_mean"])
        square = Image.new("RGB", (side, side), colour)
        square.paste(image, (left, top))
        box = (
            -left / image.width,
            -top / image.height,
            (side - left) / image.width,
            (side - top) / image.height,
        )
        return square, box

    def check_room(self, image: Image.Image, width: int, height: int, between: int = 0) -> None:
        """Refuse an image that would become unreasonably large, as a very long, thin one does.

        Args:
            image: As it is.
            width: As it would be.
            height: As it would be.
            between: Pixels that are held on the way.

        Raises:
            DataError: It would.
        """
        largest = image_pixels() if self._max_pixels is None else self._max_pixels
        # A user's small limit is one on what is given, not on the size that the model sees.
        most = _ROOM * max(largest, MAX_IMAGE_PIXELS)
        if width * height + between > most:
            raise DataError(
                f"an image of {image.width}x{image.height} pixels would become {width}x{height}, which takes more "
                f"than {most} pixels; crop it to a less extreme shape"
            )

    def normalise(self, images: Iterable[Image.Image], count: int = 1) -> npt.NDArray[np.float32]:
        """Return RGB images of one size as (count, 3, height, width) float32, rescaled and normalised."""
        values: npt.NDArray[np.float32] | None = None
        for index, image in enumerate(images):
            pixels = np.asarray(image)
            if values is None:
                values = np.empty((count, 3, *pixels.shape[:2]), dtype=np.float32)
            for channel in range(3):
                values[index, channel] = self._levels[channel][pixels[:, :, channel]]
        if values is None:
            raise ValueError("no image was given")
        return values


_COMMON_DEFAULTS: Mapping[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
}


def whole_image(
    pixels: npt.NDArray[np.float32], image: Image.Image, view: View | None = None
) -> ProcessedImage:
    """Return an image that is not split, from (1, 3, height, width) and the picture as it was given."""
    views = (view or View(kind="whole"),)
    shape = ImageShape(rows=0, columns=0, views=views, size=(image.height, image.width))
    return ProcessedImage(pixel_values=pixels, shape=shape)
