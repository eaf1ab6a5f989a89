"""Pictures as a row of patches, as many as the picture has room for: the processor of Qwen2-VL and its followers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from moir_edge.errors import DataError
from moir_edge.limits import MOST_ASPECT
from moir_edge.runtime.image_config import PATCHES
from moir_edge.runtime.image_geometry import smart_resize
from moir_edge.runtime.image_processor import (
    CLIP_MEAN,
    CLIP_STD,
    ImageProcessor,
    ImageShape,
    ProcessedImage,
    View,
)

__all__ = ["PatchImageProcessor"]

_RENAMED = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}


class PatchImageProcessor(ImageProcessor):
    """Resized to whole blocks of patches near its own shape, and cut into patches, block by block.

    A patch is one row of numbers: channel, then frame, then row and column of its pixels. A still picture fills every
    frame. The patches of one block of `merge_size` × `merge_size`, which become one image token, stand together.
    """

    settings = PATCHES
    defaults: ClassVar[Mapping[str, Any]] = {
        "resample": Image.Resampling.BICUBIC,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280},
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }

    def __init__(self, config: Mapping[str, Any], **bounds: int | None) -> None:
        super().__init__(_with_one_size(config, self.defaults), **bounds)
        self.patch, self.merge = int(self.config["patch_size"]), int(self.config["merge_size"])

    def __call__(self, image: Image.Image) -> ProcessedImage:
        """Process one upright RGB image; rows and columns of the result count patches."""
        given, block = image, self.patch * self.merge
        if self.config["do_resize"]:
            image = self.resize(image, self._resized(image, block))
        elif image.width % block or image.height % block:
            raise DataError(
                f"an image of {image.width}x{image.height} pixels is not made of whole blocks of {block}x{block}, and "
                "the image processor does not resize (do_resize is false); resize the image, or set do_resize to true"
            )
        rows, columns = image.height // self.patch, image.width // self.patch
        return ProcessedImage(
            pixel_values=self._patches(np.asarray(image)),
            shape=ImageShape(
                rows=rows,
                columns=columns,
                views=(View(kind="whole", grid=(rows // self.merge, columns // self.merge)),),
                size=(given.height, given.width),
            ),
        )

    def _resized(self, image: Image.Image, block: int) -> tuple[int, int]:
        longer, shorter = max(image.size), min(image.size)
        if longer > MOST_ASPECT * shorter:
            raise DataError(
                f"an image of {image.width}x{image.height} pixels is more than {MOST_ASPECT} times as long as it is "
                "wide, and the model takes none such; crop it to a less extreme shape"
            )
        size = self.config["size"]
        return smart_resize(
            image.height, image.width, block, int(size["shortest_edge"]), int(size["longest_edge"])
        )

    def _patches(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Normalise (height, width, 3) and return (patches, numbers of a patch) float32."""
        frames, patch, merge = int(self.config["temporal_patch_size"]), self.patch, self.merge
        blocks = [side // (patch * merge) for side in pixels.shape[:2]]
        shape = (blocks[0], merge, patch, blocks[1], merge, patch)
        values = np.empty((*blocks, merge, merge, 3, frames, patch, patch), dtype=np.float32)
        for channel in range(3):
            levels = self._levels[channel][pixels[:, :, channel]].reshape(shape)
            # (block rows, block columns, rows of a block, columns of a block, 1, height, width)
            values[:, :, :, :, channel] = levels.transpose(0, 3, 1, 4, 2, 5)[:, :, :, :, None]
        return values.reshape(-1, 3 * frames * patch * patch)


def _with_one_size(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config whose bounds on pixels stand in `size` alone, as transformers reads them."""
    given = {key: value for key, value in config.items() if value is not None}
    bounds = {_RENAMED[key]: given.pop(key) for key in _RENAMED if key in given}
    size = given.get("size", defaults["size"])
    if bounds and isinstance(size, Mapping):
        given["size"] = {**size, **bounds}
    return given
