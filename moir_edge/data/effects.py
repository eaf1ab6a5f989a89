"""Degrade one image or one text field.

Source of the levels: ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261) for blur, noise and JPEG, whose
images are 224 px wide; its Gaussian blur is 1, 2, 3, 4, 6 px. Word dropout has no standard table.
"""

from __future__ import annotations

import io
import random
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moir_edge.data.kinds import Quantity, image_degradation, text_degradation

__all__ = [
    "BLANK",
    "blank_image",
    "blank_text",
    "compress",
    "drop_words",
    "gaussian_blur",
    "gaussian_noise",
]

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
    pixels = np.asarray(image, dtype=np.float32)
    for _axis in range(2):
        length = pixels.shape[0]
        smooth = _gaussian_matrix(length, sigma) @ pixels.reshape(length, -1)
        pixels = smooth.reshape(pixels.shape).transpose(1, 0, 2)
    return _to_image(pixels)


@image_degradation(
    "noise",
    Quantity(name="std", levels=(0.08, 0.12, 0.18, 0.26, 0.38), low=0.0, high=1.0),
)
def gaussian_noise(image: Image.Image, std: float, rng: np.random.Generator) -> Image.Image:
    """Add independent noise to every value; `std` is a share of the full range, the result is clipped to it."""
    pixels = np.asarray(image, dtype=np.float64) / 255
    return _to_image(255 * (pixels + rng.normal(scale=std, size=pixels.shape)))


@image_degradation(
    "jpeg",
    Quantity(name="quality", levels=(25, 18, 15, 10, 7), low=1, high=95, whole=True),
)
def compress(image: Image.Image, quality: float, _: np.random.Generator) -> Image.Image:
    """Write as JPEG and read again; `quality` as in libjpeg, low is bad."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=round(quality))
    with Image.open(buffer) as written:
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


@text_degradation("text-blank")
def blank_text(_: str, __: float, ___: random.Random) -> str:
    """Return no text at all."""
    return ""


@lru_cache(maxsize=8)
def _gaussian_matrix(length: int, sigma: float) -> NDArray[np.float32]:
    """Return the convolution along one axis as a matrix (length, length): BLAS is faster than shifted sums."""
    reach = int(4 * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((length, length), dtype=np.float32)
    places = np.arange(length)
    for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
        matrix[places, np.clip(places + offset, 0, length - 1)] += weight
    return matrix


def _to_image(pixels: NDArray[np.floating[Any]]) -> Image.Image:
    """Round and clip values to an RGB image."""
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
