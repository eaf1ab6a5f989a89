"""Bound the pixels of an image, in this process and in those that it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from moir_edge.errors import DataError
from moir_edge.limits import MAX_IMAGE_PIXELS, MOST_IMAGE_PIXELS

__all__ = ["IMAGE_PIXELS_VARIABLE", "checked_image_pixels", "image_pixels", "limited_image_pixels"]

IMAGE_PIXELS_VARIABLE = "MOIR_EDGE_MAX_IMAGE_PIXELS"


def image_pixels() -> int:
    """Return the most pixels that an image may have: the variable's value where it is set, else the default.

    Raises:
        DataError: The variable holds no number, or one out of range.
    """
    text = os.environ.get(IMAGE_PIXELS_VARIABLE)
    if text is None:
        return MAX_IMAGE_PIXELS
    value = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else -1
    return checked_image_pixels(value, f"{IMAGE_PIXELS_VARIABLE}={text[:40]!r}")


def checked_image_pixels(value: int, given: str | None = None) -> int:
    """Return a limit that is in range.

    Args:
        value: The limit.
        given: What the message calls it; None for the argument.

    Raises:
        DataError: It is below 1, or above what Pillow opens.
    """
    if not 1 <= value <= MOST_IMAGE_PIXELS:
        name = given or f"max_image_pixels is {value}"
        raise DataError(f"{name}; it must be at least 1 and at most {MOST_IMAGE_PIXELS}")
    return value


@contextmanager
def limited_image_pixels(pixels: int | None) -> Iterator[None]:
    """Let images have a number of pixels at most, in this process and in those it starts.

    Args:
        pixels: Width times height; None leaves the limit as it is.

    Raises:
        DataError: As in `checked_image_pixels`.
    """
    if pixels is None:
        yield
        return
    before = os.environ.get(IMAGE_PIXELS_VARIABLE)
    os.environ[IMAGE_PIXELS_VARIABLE] = str(checked_image_pixels(pixels))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(IMAGE_PIXELS_VARIABLE, None)
        else:
            os.environ[IMAGE_PIXELS_VARIABLE] = before
