"""Degrade one image or one text field.

Source of the levels: ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261) for blur, noise and JPEG, whose
images are 224 px wide; its Gaussian blur is 1, 2, 3, 4, 6 px. Word dropout and the masked region have no standard table.
"""

from __future__ import annotations

import dataclasses
import io
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moir_edge.data.kinds import (
    Quantity,
    image_degradation,
    row_degradation,
    text_degradation,
)
from moir_edge.data.rows import Row

__all__ = [
    "BLANK",
    "CONTEXT_ABSENT",
    "IMAGE_ABSENT",
    "blank_image",
    "blank_text",
    "compress",
    "drop_words",
    "gaussian_blur",
    "gaussian_noise",
    "mask_region",
    "without_context",
    "without_images",
]

_BLOCK = 512  # rows or columns of a large image that are blurred at once, in px
_VALUES = 1 << 20  # values of a large image that get their noise at once
IMAGE_ABSENT, CONTEXT_ABSENT = "image-absent", "context-absent"
"""Kinds that leave nothing of an image, or of the context."""
BLANK = (128, 128, 128)
"""Colour of a blanked image. An image's own mean colour would still tell something about it."""


@image_degradation(
    "blur",
    Quantity(name="sigma", unit="px", levels=(1, 2, 3, 4, 6), low=0.0, high=100.0, scales=True),
)
def gaussian_blur(image: Image.Image, sigma: float, _: np.random.Generator) -> Image.Image:
    """Convolve with a Gaussian of `sigma` px, cut off at 4 sigma; the edge pixels go on beyond the border.

    Pillow's own filter rounds after each of its six box passes, which loses a sigma below about 1 px altogether.
    """
    if sigma == 0:
        return image
    pixels = np.asarray(image)
    blurred = np.empty_like(pixels)
    height, width = pixels.shape[:2]
    for rows in _blocks(height, sigma):
        for columns in _blocks(width, sigma):
            patch = pixels[rows.reached, columns.reached].astype(np.float32)
            smooth = columns.smooth(rows.smooth(patch))
            blurred[rows.own, columns.own] = _to_levels(smooth)
    return Image.fromarray(blurred)


@image_degradation(
    "noise",
    Quantity(name="std", levels=(0.08, 0.12, 0.18, 0.26, 0.38), low=0.0, high=1.0),
)
def gaussian_noise(image: Image.Image, std: float, rng: np.random.Generator) -> Image.Image:
    """Add independent noise to every value; `std` is a share of the full range, the result is clipped to it."""
    pixels = np.asarray(image)
    values = pixels.reshape(-1)
    noisy = np.empty_like(values)
    for start in range(0, len(values), _VALUES):
        part = slice(start, start + _VALUES)
        levels = values[part].astype(np.float64) / 255
        noisy[part] = _to_levels(255 * (levels + rng.normal(scale=std, size=len(levels))))
    return Image.fromarray(noisy.reshape(pixels.shape))


@image_degradation(
    "jpeg",
    Quantity(name="quality", levels=(25, 18, 15, 10, 7), low=1, high=95, whole=True),
)
def compress(image: Image.Image, quality: float, _: np.random.Generator) -> Image.Image:
    """Write as JPEG and read again; `quality` as in libjpeg, low is bad."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=round(quality))
    with Image.open(buffer, formats=["JPEG"]) as written:
        return written.convert("RGB")


@text_degradation(
    "word-dropout",
    Quantity(name="p", levels=(0.1, 0.2, 0.3, 0.4, 0.5), low=0.0, high=1.0),
)
def drop_words(text: str, probability: float, rng: random.Random) -> str:
    """Drop each word with the given probability; one word always stays."""
    words = text.split(" ")
    kept = [word for word in words if rng.random() >= probability]
    return " ".join(kept or [rng.choice(words)])


@image_degradation("image-blank")
def blank_image(image: Image.Image, _: float, __: np.random.Generator) -> Image.Image:
    """Return a grey image of the same size."""
    return Image.new("RGB", image.size, BLANK)


@image_degradation(
    "mask-region",
    Quantity(name="share", levels=(0.1, 0.2, 0.3, 0.4, 0.5), low=0.0, high=1.0),
)
def mask_region(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Replace a rectangle that covers `share` of the image by its own mean colour.

    The rectangle has the image's proportions and lies anywhere. One of the same draw with a larger share contains it.
    """
    side = math.sqrt(share)
    tall, wide = (
        slice(round(at * (1 - side) * length), round((at * (1 - side) + side) * length))
        for at, length in zip(rng.random(2), (image.height, image.width), strict=True)
    )
    pixels = np.array(image)
    region = pixels[tall, wide]
    if region.size:
        pixels[tall, wide] = _to_levels(region.mean(axis=(0, 1), dtype=np.float64))
    return Image.fromarray(pixels)


@text_degradation("text-blank")
def blank_text(_: str, __: float, ___: random.Random) -> str:
    """Return no text at all."""
    return ""


@row_degradation(IMAGE_ABSENT, "image")
def without_images(row: Row) -> Row:
    """Return the row without images: the prompt has no image tokens, and nothing is routed."""
    return dataclasses.replace(row, images=())


@row_degradation(CONTEXT_ABSENT, "text")
def without_context(row: Row) -> Row:
    """Return the row without its context; the prompt stays."""
    return dataclasses.replace(row, context=None)


@dataclass(frozen=True)
class _Block:
    """A part of one axis, with what lies around it as far as the Gaussian reaches.

    Attributes:
        own: The part.
        reached: The part and its surroundings.
        sigma: Of the Gaussian, in px.
    """

    own: slice
    reached: slice
    sigma: float

    def smooth(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convolve along the first axis and put it second: (reached, other, 3) to (other, own, 3)."""
        before, after = self.own.start - self.reached.start, self.reached.stop - self.own.stop
        matrix = _gaussian_matrix(self.own.stop - self.own.start, before, after, self.sigma)
        smooth = matrix @ pixels.reshape(len(pixels), -1)
        return smooth.reshape(len(smooth), *pixels.shape[1:]).transpose(1, 0, 2)


def _blocks(length: int, sigma: float) -> Iterator[_Block]:
    """Give the parts of an axis."""
    reach = _reach(sigma)
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        reached = slice(max(0, start - reach), min(length, stop + reach))
        yield _Block(slice(start, stop), reached, sigma)


def _reach(sigma: float) -> int:
    return int(4 * sigma + 0.5)


@lru_cache(maxsize=16)
def _gaussian_matrix(length: int, before: int, after: int, sigma: float) -> NDArray[np.float32]:
    """Return the convolution of a block as a matrix (length, before + length + after): BLAS is faster than shifted sums.

    Where less lies before or after the block than the Gaussian reaches, the image ends, and its edge pixels go on.
    """
    reach = _reach(sigma)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((length, before + length + after), dtype=np.float32)
    places = np.arange(length)
    last = before + length + after - 1
    for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
        matrix[places, np.clip(before + places + offset, 0, last)] += weight
    return matrix


def _to_levels(pixels: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Round and clip values to 8-bit levels."""
    levels: NDArray[np.uint8] = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return levels
