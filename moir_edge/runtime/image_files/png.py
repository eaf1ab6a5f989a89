"""PNG files. Source: Portable Network Graphics, third edition, section 5."""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from

from moir_edge.runtime.image_files.parts import Contained, Walk

__all__ = ["SIGNATURE", "read_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")


def read_png(data: bytes) -> Contained:
    """Return size, orientation and pixels; an animated file has its default image as any other."""
    walk, view = Walk(), memoryview(data)
    walk.pieces.append(view[:8])
    for kind, start, end in _chunks(data, walk):
        if kind == b"IHDR" and walk.size is None:
            walk.size = unpack_from(">II", data, start + 8)
        if kind in _KEPT:
            walk.pieces.append(view[start:end])
        elif kind == b"eXIf":
            walk.orientation.exif(data[start + 8 : end - 4])
        elif kind in _TEXTS:
            walk.orientation.png_text(kind, data[start + 8 : end - 4])
    return walk.found("PNG", data)


def _chunks(data: bytes, walk: Walk) -> Iterator[tuple[bytes, int, int]]:
    """Give kind, start and end of every chunk; one that is cut off ends with the file."""
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        walk.count()
        (length,) = unpack_from(">I", data, position)
        kind, end = data[position + 4 : position + 8], position + 12 + length
        yield kind, position, min(end, len(data))
        if kind == b"IEND":
            return
        position = end
