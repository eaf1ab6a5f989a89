"""Sizes, crops and level tables with the roundings of Hugging Face's Pillow image processors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = [
    "WHOLE",
    "Box",
    "at_most",
    "blocks_within",
    "centre_crop",
    "height_width",
    "level_table",
    "longest_edge_to",
    "multiples",
    "nearest_canvas",
    "smart_resize",
    "within",
]

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def level_table(config: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Return (3, 256) float32: the value of each 8-bit level per channel.

    Rescaling and normalising act on single 8-bit values, so a table gives the same bits at a
    fraction of the time. The casts follow transformers: float64 product, then float32.
    """
    levels = np.arange(256, dtype=np.uint8)
    if config["do_rescale"]:
        values = (levels.astype(np.float64) * config["rescale_factor"]).astype(np.float32)
    else:
        values = levels.astype(np.float32)
    if not config["do_normalize"]:
        return np.stack([values] * 3)
    mean = np.array(config["image_mean"], dtype=np.float32)
    std = np.array(config["image_std"], dtype=np.float32)
    table: npt.NDArray[np.float32] = (values[None, :] - mean[:, None]) / std[:, None]
    return table


def longest_edge_to(height: int, width: int, edge: int) -> tuple[int, int]:
    """Scale so that the longest edge is `edge`; the other is made even, as transformers does."""
    aspect_ratio = width / height
    if width >= height:
        width, height = edge, int(edge / aspect_ratio)
        height += height % 2
    else:
        height, width = edge, int(edge * aspect_ratio)
        width += width % 2
    return max(height, 1), max(width, 1)


def at_most(height: int, width: int, edge: int) -> tuple[int, int]:
    """Scale (height, width) down so that the longest edge is `edge` at most."""
    aspect_ratio = width / height
    if width >= height and width > edge:
        width, height = edge, int(edge / aspect_ratio)
    elif height > width and height > edge:
        height, width = edge, int(edge * aspect_ratio)
    return max(height, 1), max(width, 1)


def multiples(image: Image.Image, side: int) -> tuple[int, int]:
    """Return the (height, width) in whole tiles; the longer side decides, as transformers does."""
    height, width = image.height, image.width
    aspect_ratio = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        height = math.ceil(int(width / aspect_ratio) / side) * side
    else:
        height = math.ceil(height / side) * side
        width = math.ceil(int(height * aspect_ratio) / side) * side
    return height, width


def nearest_canvas(
    image: Image.Image, size: tuple[int, int], fewest: int, most: int, *, side: int | None = None
) -> tuple[int, int]:
    """Return (columns, rows) of tiles whose aspect ratio is nearest to the image's, as the GotOCR2 processor chooses them.

    Of canvases that are equally near the larger one wins, as long as the image covers more than half of it.

    Args:
        image: The image.
        size: (height, width) of a tile.
        fewest: Tiles at least.
        most: Tiles at most.
        side: Rows and columns at most; None sets no bound.
    """
    longest = most if side is None else min(most, side)
    canvases = [
        (columns, rows)
        for columns in range(1, longest + 1)
        for rows in range(1, longest + 1)
        if fewest <= columns * rows <= most
    ]
    aspect_ratio, area = image.width / image.height, image.width * image.height
    best, least = (1, 1), math.inf
    for columns, rows in sorted(canvases, key=math.prod):
        difference = abs(aspect_ratio - columns / rows)
        roomy = area > 0.5 * size[0] * size[1] * columns * rows
        if difference < least or (difference == least and roomy):
            best, least = (columns, rows), difference
    return best


def smart_resize(height: int, width: int, factor: int, fewest: int, most: int) -> tuple[int, int]:
    """Return (height, width) in whole multiples of `factor`, with as many pixels as the Qwen2-VL processor wants.

    Args:
        height: Of the image, in px.
        width: Of the image, in px.
        factor: Both sides of the result are multiples of it.
        fewest: Pixels at least; an image with fewer is enlarged.
        most: Pixels at most; one block of `factor` × `factor` is kept even where it has more.
    """
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > most:
        scale = math.sqrt(height * width / most)
        rows = max(factor, math.floor(height / scale / factor) * factor)
        columns = max(factor, math.floor(width / scale / factor) * factor)
    elif rows * columns < fewest:
        scale = math.sqrt(fewest / (height * width))
        rows = math.ceil(height * scale / factor) * factor
        columns = math.ceil(width * scale / factor) * factor
    return rows, columns


def blocks_within(height: int, width: int, block: int, most: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) in whole multiples of `block`, as the Pixtral processor chooses them.

    Args:
        height: Of the image, in px.
        width: Of the image, in px.
        block: Both sides of the result are the next multiples of it.
        most: (height, width) that the image is scaled down to before.

    Returns:
        0 for a side of which scaling down leaves less than a pixel.
    """
    ratio = max(height / most[0], width / most[1])
    if ratio > 1:
        height, width = math.floor(height / ratio), math.floor(width / ratio)
    return -(-height // block) * block, -(-width // block) * block


def height_width(size: Any) -> tuple[int, int]:
    """Return (height, width) of a config's size: an object with both, or the side of a square."""
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    return int(size), int(size)


def centre_crop(image: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, Box]:
    """Cut (height, width) from the middle; what lies outside the image is black before normalising.

    Returns:
        The crop, and its box as fractions of the image.
    """
    height, width = size
    left, top = _crop_start(image.width, width), _crop_start(image.height, height)
    cropped = image.crop((left, top, left + width, top + height))
    part = (
        left / image.width,
        top / image.height,
        (left + width) / image.width,
        (top + height) / image.height,
    )
    return cropped, part


def _crop_start(available: int, wanted: int) -> int:
    """Return where the crop starts; negative where it is larger than the image (then padded)."""
    return (
        (available - wanted) // 2 if wanted <= available else -math.ceil((wanted - available) / 2)
    )


def within(outer: Box, part: Box) -> Box:
    """Return `part`, given as fractions of `outer`, in the coordinates that `outer` is given in."""
    width, height = outer[2] - outer[0], outer[3] - outer[1]
    return (
        outer[0] + part[0] * width,
        outer[1] + part[1] * height,
        outer[0] + part[2] * width,
        outer[1] + part[3] * height,
    )
