"""Pictures as a row of patches, as many as the picture has room for: the processor of Qwen2-VL and its followers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

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
from moir_edge.runtime.patch_grid import as_patches

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
        self._check_tokens(image, rows * columns // self.merge**2)
        return ProcessedImage(
            pixel_values=as_patches(
                self.normalise([image])[0],
                self.patch,
                self.merge,
                int(self.config["temporal_patch_size"]),
            ),
            shape=ImageShape(
                rows=rows,
                columns=columns,
                views=(View(kind="whole", grid=(rows // self.merge, columns // self.merge)),),
                size=(given.height, given.width),
            ),
        )

    def _check_tokens(self, image: Image.Image, tokens: int) -> None:
        """Refuse an image of more tokens than the model's context has room for, before it is cut."""
        if self.max_tiles is not None and tokens > self.max_tiles:
            raise DataError(
                f"an image of {image.width}x{image.height} pixels, as it is resized, has {tokens} image tokens, and the "
                f"model's context has room for {self.max_tiles}; give a smaller image, or lower size.longest_edge, the "
                "largest number of pixels, in the image processor's settings"
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


def _with_one_size(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config whose bounds on pixels stand in `size` alone, as transformers reads them."""
    given = {key: value for key, value in config.items() if value is not None}
    bounds = {_RENAMED[key]: given.pop(key) for key in _RENAMED if key in given}
    size = given.get("size", defaults["size"])
    if bounds and isinstance(size, Mapping):
        given["size"] = {**size, **bounds}
    return given
