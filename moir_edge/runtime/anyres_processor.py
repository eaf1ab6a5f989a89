"""Pictures as one square and the tiles of a canvas of their own shape: LLaVA-NeXT's and LLaVA-OneVision's processors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from PIL import Image

from moir_edge.errors import BundleError
from moir_edge.runtime.anyres import best_resolution, fitted_size
from moir_edge.runtime.image_config import ANYRES
from moir_edge.runtime.image_geometry import height_width
from moir_edge.runtime.image_processor import (
    CLIP_MEAN,
    CLIP_STD,
    ImageProcessor,
    ImageShape,
    ProcessedImage,
    View,
    whole_image,
)

__all__ = ["AnyResImageProcessor", "SquaringAnyResImageProcessor"]


class AnyResImageProcessor(ImageProcessor):
    """The picture resized to one square, then tiles of it, resized to fill the best of some canvases one way.

    Rows and columns of the result count tiles. Its one view is the square: how the tokens of the tiles lie is the
    model's business (`moir_edge.runtime.families.anyres`).
    """

    settings = ANYRES
    defaults: ClassVar[Mapping[str, Any]] = {
        "resample": Image.Resampling.BICUBIC,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    }

    def __init__(self, config: Mapping[str, Any], **bounds: int | None) -> None:
        super().__init__(config, **bounds)
        self.tile = _tile(self.config)
        self.canvases = tuple((int(h), int(w)) for h, w in self.config["image_grid_pinpoints"])
        for canvas in self.canvases:
            if canvas[0] % self.tile or canvas[1] % self.tile:
                raise BundleError(
                    f"the image processor's image_grid_pinpoints hold {list(canvas)}, which is not made of whole tiles of "
                    f"{self.tile} pixels; correct preprocessor_config.json, or export the bundle again"
                )

    def __call__(self, image: Image.Image) -> ProcessedImage:
        """Process one upright RGB image."""
        size = (image.height, image.width)
        canvas = best_resolution(size, self.canvases)
        rows, columns = canvas[0] // self.tile, canvas[1] // self.tile
        self.check_room(image, canvas[1], canvas[0])
        fitted = self.resize(image, fitted_size(size, canvas))
        left, top = (canvas[1] - fitted.width) // 2, (canvas[0] - fitted.height) // 2

        def squares() -> Iterator[Image.Image]:
            yield self.resize(image, (self.tile, self.tile))
            for row in range(rows):
                for column in range(columns):
                    x, y = column * self.tile - left, row * self.tile - top
                    # What lies outside the picture is black.
                    yield fitted.crop((x, y, x + self.tile, y + self.tile))

        return ProcessedImage(
            pixel_values=self.normalise(squares(), rows * columns + 1),
            shape=ImageShape(rows=rows, columns=columns, views=(View(kind="global"),), size=size),
        )


class SquaringAnyResImageProcessor(AnyResImageProcessor):
    """LLaVA-OneVision's: several images of a prompt become one square each, padded and without tiles."""

    defaults: ClassVar[Mapping[str, Any]] = {
        **AnyResImageProcessor.defaults,
        "size": {"height": 384, "width": 384},
        "crop_size": None,
        "do_center_crop": False,
        "image_grid_pinpoints": [
            [height, width] for height in range(384, 2305, 384) for width in range(384, 2305, 384)
        ],
    }

    def together(self, image: Image.Image) -> ProcessedImage:
        """Process one of several images of a prompt: the whole of it, padded to a square."""
        square, box = self.squared(image)
        pixels = self.normalise([self.resize(square, (self.tile, self.tile))])
        return whole_image(pixels, image, View(kind="crop", box=box))


def _tile(config: Mapping[str, Any]) -> int:
    """Return the side of a tile in px."""
    size, crop = config["size"], config.get("crop_size")
    if "shortest_edge" in size:
        size = size["shortest_edge"]
    height, width = height_width(size)
    if height != width or (crop is not None and crop not in (height, _square(height))):
        raise BundleError(
            f"the image processor's size ({config['size']}) and crop_size ({crop}) are not one square; "
            "correct preprocessor_config.json, or export the bundle again"
        )
    return height


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}
