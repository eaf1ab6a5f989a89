"""Read what surrounds the pixels of an image file, and keep only what decoding needs.

Pillow keeps every comment, profile and text of a file, takes memory before a caller has seen the size, and follows what EXIF
data point to. So the five kinds of files are walked through here first.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import error as StructError

from moir_edge.runtime.image_files import bmp, gif, jpeg, png, webp
from moir_edge.runtime.image_files.orientation import Orientation
from moir_edge.runtime.image_files.parts import Contained, NotAnImageError

__all__ = ["Contained", "NotAnImageError", "Orientation", "contained"]


def contained(data: bytes) -> Contained | None:
    """Return what a PNG, JPEG, WebP, BMP or GIF file holds; None for any other file.

    Raises:
        NotAnImageError: The file is damaged before its pixels begin, or asks for more than an honest one.
    """
    read = _reader(data)
    if read is None:
        return None
    try:
        return read(data)
    except (StructError, IndexError) as error:
        raise NotAnImageError("it ends before its pixels begin") from error


def _reader(data: bytes) -> Callable[[bytes], Contained] | None:
    if data.startswith(png.SIGNATURE):
        return png.read_png
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.read_jpeg
    if webp.is_webp(data):
        return webp.read_webp
    if data.startswith(gif.SIGNATURES):
        return gif.read_gif
    if data.startswith(bmp.SIGNATURE):
        return bmp.read_bmp
    return None
