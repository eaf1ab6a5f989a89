"""The decoded images of data rows; an error names the row."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

from moir_edge.data.rows import Row, naming
from moir_edge.errors import DataError
from moir_edge.limits import CACHED_IMAGE_PIXELS, LARGE_IMAGES_OF_A_ROW, MOST_ASPECT

__all__ = ["decoded_image", "row_images"]


class _Cache:
    """Decoded images by path, the last used ones, up to a number of pixels."""

    def __init__(self) -> None:
        self._images: OrderedDict[Path, Any] = OrderedDict()
        self._pixels = 0
        self._lock = Lock()

    def get(self, path: Path) -> Any:
        """Return an image, or None where it is not kept."""
        with self._lock:
            if path in self._images:
                self._images.move_to_end(path)
            return self._images.get(path)

    def put(self, path: Path, image: Any) -> None:
        """Keep an image in place of those that were not used for longest."""
        with self._lock:
            if path in self._images or image.width * image.height > CACHED_IMAGE_PIXELS:
                return
            self._images[path] = image
            self._pixels += image.width * image.height
            while self._pixels > CACHED_IMAGE_PIXELS:
                _, old = self._images.popitem(last=False)
                self._pixels -= old.width * old.height


_kept = _Cache()


def decoded_image(path: Path) -> Any:
    """Return an image file as an upright RGB Pillow image; recently used ones are kept.

    Raises:
        DataError: The file is missing, truncated, too large, far longer than wide, or not an image.
    """
    from moir_edge.runtime.images import read_image

    image = _kept.get(path)
    if image is None:
        image = read_image(path)
        longer, shorter = max(image.size), min(image.size)
        if longer > MOST_ASPECT * shorter:
            raise DataError(
                f"{path} has {image.width}x{image.height} pixels, one side more than {MOST_ASPECT} times the other; "
                "crop it to a less extreme shape"
            )
        _kept.put(path, image)
    return image


def row_images(row: Row) -> list[Any]:
    """Return the images of a row, in order.

    Raises:
        DataError: As in `decoded_image`, or they have too many pixels together; the message starts with the row's place.
    """
    from moir_edge.image_limit import image_pixels

    most = LARGE_IMAGES_OF_A_ROW * image_pixels()
    images, pixels = [], 0
    with naming(row):
        for path in row.images:
            image = decoded_image(path)
            pixels += image.width * image.height
            if pixels > most:
                raise DataError(
                    f"its {len(row.images)} images have more than {most} pixels together; "
                    "scale them down, or raise `max_image_pixels`"
                )
            images.append(image)
    return images
