"""WebP files. Source: WebP container specification; VP8 (RFC 6386) and WebP lossless bitstreams for the size."""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from

from moir_edge.runtime.image_files.parts import Contained, NotAnImageError, Walk

__all__ = ["is_webp", "read_webp"]

_FRAMES = (b"VP8 ", b"VP8L", b"ANMF")
_METADATA_FLAGS = 0x2C  # profile, EXIF, XMP


def is_webp(data: bytes) -> bool:
    """Whether a file begins as WebP does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_webp(data: bytes) -> Contained:
    """Return size, orientation and pixels; an animation keeps its first frame only."""
    walk, view, complete = Walk(), memoryview(data), False
    for kind, start, end in _chunks(data, walk):
        if walk.size is None:
            walk.size = _size(kind, data, start + 8)
        if kind == b"EXIF":
            walk.orientation.exif(data[start + 8 : end])
        elif kind == b"XMP ":
            walk.orientation.xmp(data[start + 8 : end])
        elif kind == b"VP8X" and not walk.pieces:
            flags = data[start + 8] & ~_METADATA_FLAGS
            walk.pieces += [data[start : start + 8] + bytes([flags]), view[start + 9 : end]]
        elif not complete and kind in (b"ANIM", b"ALPH", *_FRAMES):
            walk.pieces.append(view[start:end])
            complete = kind in _FRAMES
    length = sum(len(piece) for piece in walk.pieces) + 4
    walk.pieces.insert(0, b"RIFF" + length.to_bytes(4, "little") + b"WEBP")
    return walk.found("WEBP", data)


def _chunks(data: bytes, walk: Walk) -> Iterator[tuple[bytes, int, int]]:
    """Give kind, start and end of every chunk, the padding included.

    Raises:
        NotAnImageError: A chunk is cut off.
    """
    position = 12
    while position + 8 <= len(data):
        walk.count()
        (length,) = unpack_from("<I", data, position + 4)
        end = position + 8 + length + length % 2
        if position + 8 + length > len(data):
            raise NotAnImageError("it ends inside its pixels")
        yield data[position : position + 4], position, end
        position = end


def _size(kind: bytes, data: bytes, start: int) -> tuple[int, int]:
    """Return (width, height) from what the first chunk holds: the canvas, or the one frame.

    Raises:
        NotAnImageError: It is another chunk.
    """
    if kind == b"VP8X":
        width, high, height, highest = unpack_from("<HBHB", data, start + 4)
        return (width | high << 16) + 1, (height | highest << 16) + 1
    if kind == b"VP8L":
        (bits,) = unpack_from("<I", data, start + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = unpack_from("<HH", data, start + 6)
        return width & 0x3FFF, height & 0x3FFF
    raise NotAnImageError("it does not begin with a picture")
