"""Pages on a canvas of tiles, large spreads on a larger one: the processor of Granite-Docling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from PIL import Image

from moir_edge.runtime.image_config import PAGES
from moir_edge.runtime.image_geometry import height_width, nearest_canvas
from moir_edge.runtime.image_processor import (
    CLIP_MEAN,
    CLIP_STD,
    ImageProcessor,
    ProcessedImage,
    whole_image,
)

__all__ = ["PageImageProcessor"]

_MOST_SIDE = 16  # the tokenizer has marks of rows and columns up to here


class PageImageProcessor(ImageProcessor):
    """Resized to the canvas of whole tiles with the nearest aspect ratio, followed by an overview where there are several."""

    settings = PAGES
    defaults: ClassVar[Mapping[str, Any]] = {
        "resample": Image.Resampling.BICUBIC,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "size": {"height": 512, "width": 512},
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": 32,
        "fine_route": False,
        "dense_max_patches": 0,
        "dense_max_scale": 0.0,
        "dense_min_aspect": 0.0,
        "dense_max_aspect": 0.0,
    }

    def __call__(self, image: Image.Image) -> ProcessedImage:
        """Process one upright RGB image."""
        size, most = height_width(self.config["size"]), self._most(image)
        columns, rows = self._canvas(image, most) if most > 1 else (1, 1)
        canvas = self.resize(image, (rows * size[0], columns * size[1]))
        if rows * columns == 1:
            return whole_image(self.normalise([canvas]), image)
        self.check_tiles(rows * columns + 1)
        return self.tiled(canvas, image, size, (rows, columns), image)

    def _canvas(self, image: Image.Image, most: int) -> tuple[int, int]:
        size, fewest = height_width(self.config["size"]), self.config["min_patches"]
        return nearest_canvas(image, size, min(fewest, most), most, side=_MOST_SIDE)

    def _most(self, image: Image.Image) -> int:
        """Return how many tiles an image may have, more where it is wide and few tiles would shrink it much."""
        most, dense = self.config["max_patches"], self.config["dense_max_patches"]
        if not self.config["crop_to_patches"] or most <= 1:
            return 1
        scale, low, high = (
            self.config[f"dense_{name}"] for name in ("max_scale", "min_aspect", "max_aspect")
        )
        if not dense or (scale <= 0 and low <= 0):
            return int(most)
        aspect = image.width / image.height
        if (low > 0 and not aspect > low) or (high > 0 and aspect > high):
            return int(most)
        if scale > 0:
            width = height_width(self.config["size"])[1]
            if not self._canvas(image, most)[0] * width / image.width < scale:
                return int(most)
        return int(dense)
