"""Pixels as the vision graph wants them, equal bit for bit to Hugging Face's Pillow image processors.

One class per family, found by the `image_processor_type` of the processor's JSON file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from moir_edge.errors import DataError, UnsupportedError, closest
from moir_edge.image_limit import image_pixels
from moir_edge.limits import MAX_IMAGE_PIXELS
from moir_edge.runtime.image_config import (
    CANVAS,
    CROPPING,
    TILING,
    Settings,
    check_image_config,
)
from moir_edge.runtime.image_geometry import (
    WHOLE,
    Box,
    at_most,
    centre_crop,
    height_width,
    level_table,
    longest_edge_to,
    multiples,
    nearest_canvas,
    within,
)

__all__ = [
    "ImageProcessor",
    "ProcessedImage",
    "View",
    "image_processor_from",
]

_ROOM = (
    3  # a long, thin image may become larger than the largest image by this factor, not gigabytes
)


@dataclass(frozen=True, kw_only=True)
class View:
    """One square that the vision tower looks at.

    Attributes:
        kind: `whole` image, one `tile` of a split image, its `global` overview, or a centre `crop`.
        row: Row of the tile, 0 otherwise.
        column: Column of the tile, 0 otherwise.
        box: (left, top, right, bottom) in the upright image, as fractions of its width and height.
    """

    kind: Literal["whole", "tile", "global", "crop"]
    row: int = 0
    column: int = 0
    box: Box = WHOLE


@dataclass(frozen=True, kw_only=True)
class ProcessedImage:
    """One image, ready for the vision graph.

    Attributes:
        pixel_values: (tiles, 3, height, width) float32, normalised.
        rows: Rows of tiles, 0 where the image was not split.
        columns: Columns of tiles, 0 where the image was not split.
        views: One per tile, in the order of `pixel_values`.
    """

    pixel_values: npt.NDArray[np.float32]
    rows: int
    columns: int
    views: tuple[View, ...]


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
        rows: int,
        columns: int,
    ) -> ProcessedImage:
        """Cut an image into rows of tiles, one at a time, followed by a resized overview.

        Args:
            canvas: Exactly as large as its tiles.
            overview: What the overview is resized from.
            size: (height, width) of a tile.
            rows: Rows of tiles.
            columns: Columns of tiles.
        """
        height, width = size
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
            rows=rows,
            columns=columns,
            views=(*views, View(kind="global")),
        )

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
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)

_FAMILIES: dict[str, type[ImageProcessor]] = {}


def _family(*names: str) -> Callable[[type[ImageProcessor]], type[ImageProcessor]]:
    def add(cls: type[ImageProcessor]) -> type[ImageProcessor]:
        for name in names:
            if name in _FAMILIES:
                raise ValueError(f"image processor {name} is registered twice")
            _FAMILIES[name] = cls
        return cls

    return add


def image_processor_from(
    config: Mapping[str, Any], *, max_pixels: int | None = None, max_tiles: int | None = None
) -> ImageProcessor:
    """Build the image processor that a Hugging Face JSON object describes.

    Args:
        config: `preprocessor_config.json`, or the `image_processor` part of `processor_config.json`.
        max_pixels: As in `ImageProcessor`.
        max_tiles: As in `ImageProcessor`.

    Raises:
        UnsupportedError: The `image_processor_type` is not one of the known families.
    """
    stated = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    name = (
        stated.removesuffix("Fast")
        .removesuffix("Pil")
        .replace("FeatureExtractor", "ImageProcessor")
    )
    if name not in _FAMILIES:
        raise UnsupportedError(f"unknown image processor {stated!r}; {closest(name, _FAMILIES)}")
    return _FAMILIES[name](config, max_pixels=max_pixels, max_tiles=max_tiles)


@_family("SmolVLMImageProcessor", "Idefics3ImageProcessor")
class TilingImageProcessor(ImageProcessor):
    """Longest edge resized, then one square, or square tiles followed by a global overview.

    Every tile is `max_image_size` square, so the vision tower's pixel mask is all ones.
    """

    settings = TILING
    defaults: ClassVar[Mapping[str, Any]] = {
        "resample": Image.Resampling.LANCZOS,
        "image_mean": _HALF,
        "image_std": _HALF,
        "size": {"longest_edge": 4 * 364},
        "max_image_size": {"longest_edge": 364},
        "do_image_splitting": True,
    }
    longest_side = 4096

    def __call__(self, image: Image.Image) -> ProcessedImage:
        """Process one upright RGB image."""
        if self.config["do_resize"]:
            image = self.resize(image, self._resized(image))
        side = int(self.config["max_image_size"]["longest_edge"])
        if not self.config["do_image_splitting"]:
            return _whole(self.normalise([self.resize(image, (side, side))]))
        return self._split(self.resize(image, multiples(image, side)), side)

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        size = self.config["size"]
        if "longest_edge" not in size:
            return int(size["height"]), int(size["width"])
        height, width = longest_edge_to(image.height, image.width, int(size["longest_edge"]))
        return at_most(height, width, self.longest_side)

    def _split(self, image: Image.Image, side: int) -> ProcessedImage:
        rows, columns = image.height // side, image.width // side
        if (rows, columns) == (1, 1):
            return _whole(self.normalise([image]))
        self.check_tiles(rows * columns + 1)
        return self.tiled(image, image, (side, side), rows, columns)


def _whole(pixels: npt.NDArray[np.float32]) -> ProcessedImage:
    """Return an image that is not split, from (1, 3, height, width)."""
    return ProcessedImage(pixel_values=pixels, rows=0, columns=0, views=(View(kind="whole"),))


@_family("GotOcr2ImageProcessor")
class CanvasImageProcessor(ImageProcessor):
    """Resized to the canvas of whole tiles with the nearest aspect ratio, followed by an overview: InternVL's."""

    settings = CANVAS
    defaults: ClassVar[Mapping[str, Any]] = {
        "resample": Image.Resampling.BICUBIC,
        "image_mean": _CLIP_MEAN,
        "image_std": _CLIP_STD,
        "size": {"height": 384, "width": 384},
        "crop_to_patches": False,
        "min_patches": 1,
        "max_patches": 12,
    }

    def __call__(self, image: Image.Image) -> ProcessedImage:
        """Process one upright RGB image."""
        size = height_width(self.config["size"])
        fewest, most = self.config["min_patches"], self.config["max_patches"]
        if not self.config["crop_to_patches"] or most <= 1:
            resized = self.resize(image, size) if self.config["do_resize"] else image
            return _whole(self.normalise([resized]))
        columns, rows = nearest_canvas(image, size, fewest, most)
        canvas = self.resize(image, (rows * size[0], columns * size[1]))
        if rows * columns == 1:
            return _whole(self.normalise([canvas]))
        self.check_tiles(rows * columns + 1)
        return self.tiled(canvas, image, size, rows, columns)


@_family("CLIPImageProcessor", "LlavaImageProcessor", "SiglipImageProcessor")
class CroppingImageProcessor(ImageProcessor):
    """Optionally padded to a square, resized, optionally cut to a centre crop: LLaVA's towers."""

    settings = CROPPING
    defaults: ClassVar[Mapping[str, Any]] = {
        "resample": Image.Resampling.BICUBIC,
        "image_mean": _CLIP_MEAN,
        "image_std": _CLIP_STD,
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "do_pad": False,
    }

    def __init__(self, config: Mapping[str, Any], **bounds: int | None) -> None:
        if str(config.get("image_processor_type", "")).startswith("Siglip"):
            config = {**_SIGLIP_DEFAULTS, **config}
        super().__init__(config, **bounds)

    def __call__(self, image: Image.Image) -> ProcessedImage:
        """Process one upright RGB image."""
        box = WHOLE
        if self.config["do_pad"] and str(self.config.get("image_processor_type")).startswith(
            "Llava"
        ):
            image, box = self._pad_to_square(image)
        if self.config["do_resize"]:
            image = self.resize(image, self._resized(image))
        if self.config["do_center_crop"]:
            image, part = centre_crop(image, height_width(self.config["crop_size"]))
            box = within(box, part)
        view = View(kind="crop" if box != WHOLE else "whole", box=box)
        return ProcessedImage(
            pixel_values=self.normalise([image]), rows=0, columns=0, views=(view,)
        )

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        size = self.config["size"]
        if isinstance(size, Mapping) and "shortest_edge" not in size:
            return int(size["height"]), int(size["width"])
        edge = int(size["shortest_edge"] if isinstance(size, Mapping) else size)
        if image.width <= image.height:
            return int(edge * image.height / image.width), edge
        return edge, int(edge * image.width / image.height)

    def _pad_to_square(self, image: Image.Image) -> tuple[Image.Image, Box]:
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


_SIGLIP_DEFAULTS: Mapping[str, Any] = {
    "image_mean": _HALF,
    "image_std": _HALF,
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
}
