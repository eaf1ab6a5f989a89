"""Pictures as a row of patches, as many as the picture has room for: the processors of Qwen2-VL and of Pixtral."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from PIL import Image

from moir_edge.errors import DataError
from moir_edge.limits import MOST_ASPECT
from moir_edge.runtime.image_config import EDGE_PATCHES, PATCHES
from moir_edge.runtime.image_geometry import (
    blocks_within,
    height_width,
    smart_resize,
)
from moir_edge.runtime.image_processor import (
    CLIP_MEAN,
    CLIP_STD,
    ImageProcessor,
    ImageShape,
    ProcessedImage,
    View,
)
from moir_edge.runtime.patch_grid import as_patches

__all__ = ["EdgePatchImageProcessor", "PatchImageProcessor"]

_RENAMED = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}


class _PatchImageProcessor(ImageProcessor):
    """Resized to whole blocks of patches near its own shape, and cut into patches, block by block.

    A patch is one row of numbers: channel, then frame, then row and column of its pixels. A still picture fills every
    frame. The patches of one block of `merge_size` × `merge_size`, which become one image token, stand together.

    Attributes:
        bound: How messages call the setting that bounds the size of a picture.
        frames: Copies of a picture in its patches.
    """

    bound: ClassVar[str]

    def __init__(self, config: Mapping[str, Any], **bounds: int | None) -> None:
        super().__init__(config, **bounds)
        self.frames = 1
        self.patch, _ = height_width(self.config["patch_size"])
        self.merge = int(self.config["merge_size"])

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
                self.normalise([image])[0], self.patch, self.merge, self.frames
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
                f"model's context has room for {self.max_tiles}; give a smaller image, or lower {self.bound} in the image processor's "
                "settings"
            )

    @abstractmethod
    def _resized(self, image: Image.Image, block: int) -> tuple[int, int]:
        """Return (height, width) in whole multiples of `block` px."""


class PatchImageProcessor(_PatchImageProcessor):
    """Qwen2-VL's: as many pixels as two bounds want."""

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
    bound = "size.longest_edge, the largest number of pixels,"

    def __init__(self, config: Mapping[str, Any], **bounds: int | None) -> None:
        super().__init__(_with_one_size(config, self.defaults), **bounds)
        self.frames = int(self.config["temporal_patch_size"])

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


class EdgePatchImageProcessor(_PatchImageProcessor):
    """Pixtral's: no edge longer than a bound, small pictures as large as they are, both edges up to whole blocks."""

    settings = EDGE_PATCHES
    defaults: ClassVar[Mapping[str, Any]] = {
        "resample": Image.Resampling.BICUBIC,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "size": {"longest_edge": 1024},
        "do_center_crop": False,
        "patch_size": 16,
        "merge_size": 1,
    }
    bound = "size"

    def _resized(self, image: Image.Image, block: int) -> tuple[int, int]:
        size = self.config["size"]
        named = isinstance(size, Mapping) and "longest_edge" in size
        most = height_width(size["longest_edge"] if named else size)
        height, width = blocks_within(image.height, image.width, block, most)
        if min(height, width) < 1:
            raise DataError(
                f"an image of {image.width}x{image.height} pixels is less than one pixel wide once it is no longer than "
                f"{max(most)}; crop it to a less extreme shape"
            )
        return height, width


def _with_one_size(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config whose bounds on pixels stand in `size` alone, as transformers reads them."""
    given = {key: value for key, value in config.items() if value is not None}
    bounds = {_RENAMED[key]: given.pop(key) for key in _RENAMED if key in given}
    size = given.get("size", defaults["size"])
    if bounds and isinstance(size, Mapping):
        given["size"] = {**size, **bounds}
    return given
