"""Small drawing helpers on Pillow: a font, a heat scale, lines that fit, pictures stacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageFont

__all__ = [
    "INK",
    "PAPER",
    "Colour",
    "Font",
    "fitted",
    "heat_colour",
    "sized_font",
    "stack",
    "wrapped",
]

Colour: TypeAlias = "tuple[int, int, int]"
Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"

INK: Colour = (32, 36, 44)
PAPER: Colour = (255, 255, 255)
_HEAT: tuple[Colour, ...] = (
    (48, 18, 95),
    (40, 90, 160),
    (30, 160, 140),
    (150, 205, 70),
    (253, 231, 37),
)


def heat_colour(share: float) -> Colour:
    """Return the colour of a value in [0, 1], dark for 0 and bright for 1."""
    place = min(1.0, max(0.0, share)) * (len(_HEAT) - 1)
    lower = min(int(place), len(_HEAT) - 2)
    mixed = np.array(_HEAT[lower]) + (place - lower) * (np.array(_HEAT[lower + 1]) - _HEAT[lower])
    red, green, blue = (int(value) for value in mixed)
    return red, green, blue


def sized_font(size: int) -> Font:
    """Return Pillow's own font at a size in pixels, so that no font file is needed."""
    return ImageFont.load_default(size)


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, at spaces."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line]


def fitted(text: str, width: int) -> str:
    """Shorten a text of 15-pixel letters to at most `width` pixels."""
    font = sized_font(15)
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text


def stack(blocks: Sequence[Image.Image]) -> Image.Image:
    """Put pictures of one width under one another."""
    canvas = Image.new(
        "RGB", (max(block.width for block in blocks), sum(block.height for block in blocks)), PAPER
    )
    top = 0
    for block in blocks:
        canvas.paste(block, (0, top))
        top += block.height
    return canvas
