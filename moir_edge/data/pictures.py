"""The decoded images of data rows; an error names the row."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from moir_edge.data.rows import Row, naming

__all__ = ["decoded_image", "row_images"]

_CACHED_IMAGES = 256


@lru_cache(maxsize=_CACHED_IMAGES)
def decoded_image(path: Path) -> Any:
    """Return an image file as an upright RGB Pillow image; recently used ones are kept.

    Raises:
        DataError: The file is missing, truncated or not an image.
    """
    from moir_edge.runtime.images import read_image

    return read_image(path)


def row_images(row: Row) -> list[Any]:
    """Return the images of a row, in order.

    Raises:
        DataError: As in `decoded_image`; the message starts with the row's place.
    """
    with naming(row):
        return [decoded_image(path) for path in row.images]
