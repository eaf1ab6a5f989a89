"""BMP files. Source: Windows BITMAPFILEHEADER, BITMAPCOREHEADER and BITMAPINFOHEADER."""

from __future__ import annotations

from struct import unpack_from

from moir_edge.limits import BMP_RUNS_PIXELS
from moir_edge.runtime.image_files.parts import Contained, NotAnImageError

__all__ = ["SIGNATURE", "read_bmp"]

SIGNATURE = b"BM"
_CORE_HEADER = 12
_RUNS = (1, 2)  # compression RLE8, RLE4


def read_bmp(data: bytes) -> Contained:
    """Return the size; the file has nothing but pixels.

    Raises:
        NotAnImageError: It is stored as runs, which Pillow reads slowly, and has too many of them.
    """
    (header,) = unpack_from("<I", data, 14)
    if header == _CORE_HEADER:
        width, height = unpack_from("<HH", data, 18)
        return Contained(format="BMP", width=width, height=height, content=data)
    width, height, compression = unpack_from("<iixxxxI", data, 18)
    width, height = abs(width), abs(height)
    if compression in _RUNS and max(width * height, len(data)) > BMP_RUNS_PIXELS:
        raise NotAnImageError(
            f"it is stored as runs of colours, which are read up to {BMP_RUNS_PIXELS} pixels"
        )
    return Contained(format="BMP", width=width, height=height, content=data)
