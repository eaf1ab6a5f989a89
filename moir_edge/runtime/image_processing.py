"""Pixels as the vision graph wants them, equal bit for bit to Hugging Face's Pillow image processors.

One class per family, found by the `image_processor_type` of the processor's JSON file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from PIL import Image

from moir_edge.errors import UnsupportedError, closest
from moir_edge.runtime.anyres_processor import (
    AnyResImageProcessor,
    SquaringAnyResImageProcessor,
)
from moir_edge.runtime.image_config import CANVAS, CROPPING, SQUARE, TILING
from moir_edge.runtime.image_geometry import (
    WHOLE,
    at_most,
    centre_crop,
    height_width,
    longest_edge_to,
    multiples,
    nearest_canvas,
    within,
)
from moir_edge.runtime.image_processor import (
    CLIP_MEAN,
    CLIP_STD,
    ImageProcessor,
    ProcessedImage,
    View,
    whole_image,
)
from moir_edge.runtime.page_processor import PageImageProcessor
from moir_edge.runtime.patch_processor import EdgePatchImageProcessor, PatchImageProcessor

__all__ = ["image_processor_from", "knows_image_processor"]

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
    if not knows_image_processor(stated):
        hint = closest(_plain(stated), _FAMILIES)
        raise UnsupportedError(f"unknown image processor {stated!r}; {hint}")
    return _FAMILIES[_plain(stated)](config, max_pixels=max_pixels, max_tiles=max_tiles)


def knows_image_processor(stated: str) -> bool:
    """Say whether an `image_processor_type`, with or without the name of a backend at its end, is that of a known family."""
    return _plain(stated) in _FAMILIES


def _plain(stated: str) -> str:
    plain = stated.removesuffix("Fast").removesuffix("Pil")
    return plain.replace("FeatureExtractor", "ImageProcessor")


_family("Qwen2VLImageProcessor")(PatchImageProcessor)
_family("PixtralImageProcessor")(EdgePatchImageProcessor)
_family("GraniteDoclingImageProcessor")(PageImageProcessor)
_family("LlavaNextImageProcessor")(AnyResImageProcessor)
_family("LlavaOnevisionImageProcessor")(SquaringAnyResImageProcessor)


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
        given = image
        if self.config["do_resize"]:
            image = self.resize(image, self._resized(image))
        side = int(self.config["max_image_size"]["longest_edge"])
        if not self.config["do_image_splitting"]:
            return whole_image(self.normalise([self.resize(image, (side, side))]), given)
        return self._split(self.resize(image, multiples(image, side)), side, given)

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        size = self.config["size"]
        if "longest_edge" not in size:
            return int(size["height"]), int(size["width"])
        height, width = longest_edge_to(image.height, image.width, int(size["longest_edge"]))
        return at_most(height, width, self.longest_side)

    def _split(self, image: Image.Image, side: int, given: Image.Image) -> ProcessedImage:
        rows, columns = image.height // side, image.width // side
        if (rows, columns) == (1, 1):
            return whole_image(self.normalise([image]), given)
        self.check_tiles(rows * columns + 1)
        return self.tiled(image, image, (side, side), (rows, columns), given)


@_family("GotOcr2ImageProcessor")
class CanvasImageProcessor(ImageProcessor):
    """Resized to the canvas of whole tiles with the nearest aspect ratio, followed by an overview: InternVL's."""

    settings = CANVAS
    defaults: ClassVar[Mapping[str, Any]] = {
        "resample": Image.Resampling.BICUBIC,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
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
            return whole_image(self.normalise([resized]), image)
        columns, rows = nearest_canvas(image, size, fewest, most)
        canvas = self.resize(image, (rows * size[0], columns * size[1]))
        if rows * columns == 1:
            return whole_image(self.normalise([canvas]), image)
        self.check_tiles(rows * columns + 1)
        return self.tiled(canvas, image, size, (rows, columns), image)


@_family("CLIPImageProcessor", "LlavaImageProcessor", "SiglipImageProcessor")
class CroppingImageProcessor(ImageProcessor):
    """Optionally padded to a square, resized, optionally cut to a centre crop: LLaVA's towers."""

    settings = CROPPING
    defaults: ClassVar[Mapping[str, Any]] = {
        "resample": Image.Resampling.BICUBIC,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
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
        given, box = image, WHOLE
        if self.config["do_pad"] and str(self.config.get("image_processor_type")).startswith(
            "Llava"
        ):
            image, box = self.squared(image)
        if self.config["do_resize"]:
            image = self.resize(image, self._resized(image))
        if self.config["do_center_crop"]:
            image, part = centre_crop(image, height_width(self.config["crop_size"]))
            box = within(box, part)
        view = View(kind="crop" if box != WHOLE else "whole", box=box)
        return whole_image(self.normalise([image]), given, view)

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        size = self.config["size"]
        if isinstance(size, Mapping) and "shortest_edge" not in size:
            return int(size["height"]), int(size["width"])
        edge = int(size["shortest_edge"] if isinstance(size, Mapping) else size)
        if image.width <= image.height:
            return int(edge * image.height / image.width), edge
        return edge, int(edge * image.width / image.height)


@_family("Gemma3ImageProcessor")
class SquareImageProcessor(ImageProcessor):
    """Resized to one square, whatever the picture's shape: Gemma 3's without pan and scan."""

    settings = SQUARE
    defaults: ClassVar[Mapping[str, Any]] = {
        "resample": Image.Resampling.BILINEAR,
        "image_mean": _HALF,
        "image_std": _HALF,
        "size": {"height": 224, "width": 224},
        "do_pan_and_scan": False,
    }

    def __call__(self, image: Image.Image) -> ProcessedImage:
        """Process one upright RGB image."""
        size = height_width(self.config["size"])
        resized = self.resize(image, size) if self.config["do_resize"] else image
        return whole_image(self.normalise([resized]), image)


_SIGLIP_DEFAULTS: Mapping[str, Any] = {
    "image_mean": _HALF,
    "image_std": _HALF,
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
}
