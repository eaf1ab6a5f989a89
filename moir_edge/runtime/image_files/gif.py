"""GIF files. Source: GIF89a specification, sections 17 to 26."""

from __future__ import annotations

from struct import unpack_from

from moir_edge.limits import GIF_HEAD_BYTES
from moir_edge.runtime.image_files.parts import Contained, NotAnImageError, Walk

__all__ = ["SIGNATURES", "read_gif"]

SIGNATURES = (b"GIF87a", b"GIF89a")
_EXTENSION, _IMAGE, _CONTROL = 0x21, 0x2C, 0xF9


def read_gif(data: bytes) -> Contained:
    """Return size and pixels of the first frame; comments and applications' data are left out."""
    walk, view = Walk(), memoryview(data)
    width, height = unpack_from("<HH", data, 6)
    position = 13 + _table_bytes(data[10])
    head = position + GIF_HEAD_BYTES
    walk.pieces.append(view[:position])
    while position < len(data):
        walk.count()
        kind, start = data[position], position
        if kind == _IMAGE:
            left, top, across, down = unpack_from("<HHHH", data, position + 1)
            # A frame that reaches over the edge makes Pillow's picture larger.
            walk.size = max(width, left + across), max(height, top + down)
            walk.pieces.append(view[position:])
            break
        position += 1
        if kind == _EXTENSION:
            position = _behind_blocks(data, position + 1, head)
            if data[start + 1] == _CONTROL:
                walk.pieces.append(view[start:position])
    return walk.found("GIF", data)


def _table_bytes(flags: int) -> int:
    """Return the length of the colour table that the flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _behind_blocks(data: bytes, position: int, most: int) -> int:
    """Return the place behind a row of blocks and the empty one that ends it.

    Raises:
        NotAnImageError: They reach too far into the file.
    """
    while data[position]:
        position += data[position] + 1
        if position > most:
            raise NotAnImageError(f"it has more than {GIF_HEAD_BYTES} bytes before its picture")
    return position + 1
