"""JPEG files. Source: ITU-T T.81, annex B."""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import unpack_from

from moir_edge.limits import JPEG_SCANS
from moir_edge.runtime.image_files.parts import Contained, NotAnImageError, Walk

__all__ = ["SIGNATURE", "read_jpeg"]

SIGNATURE = b"\xff\xd8\xff"
_SCAN, _END, _COMMENT, _EXIF = 0xDA, 0xD9, 0xFE, 0xE1
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_COLOURS = ((0xE0, b"JFIF\0"), (0xEE, b"Adobe"))
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


def read_jpeg(data: bytes) -> Contained:
    """Return size, orientation and pixels; of notes only the two that tell how colours are stored remain.

    Raises:
        NotAnImageError: The picture is made of so many scans that decoding takes minutes.
    """
    walk, view = Walk(), memoryview(data)
    walk.pieces.append(view[:2])
    for marker, start, end in _segments(data, walk):
        if marker == _SCAN:
            _check_scans(data, start)
            walk.pieces.append(view[start:])
            break
        if marker in _FRAMES:
            walk.size = _larger(walk.size, data, start)
        if marker == _EXIF:
            walk.orientation.jpeg_segment(data[start + 4 : end])
        elif not _is_note(marker, data[start + 4 : start + 9]):
            walk.pieces.append(view[start:end])
    return walk.found("JPEG", data)


def _segments(data: bytes, walk: Walk) -> Iterator[tuple[int, int, int]]:
    """Give marker, start and end of every segment up to the first scan; bytes between segments are skipped."""
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 4 <= len(data):
        walk.count()
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif marker == _END:
            return
        else:
            end = min(position + 2 + _length(data, position), len(data))
            yield marker, position, end
            position = end


def _length(data: bytes, position: int) -> int:
    """Return how many bytes a segment has behind its marker, at least the two of the number itself."""
    return max(2, int(unpack_from(">H", data, position + 2)[0]))


def _larger(size: tuple[int, int] | None, data: bytes, start: int) -> tuple[int, int]:
    """Return the larger of two sizes: a file with several frames may be decoded as either."""
    height, width = unpack_from(">HH", data, start + 5)
    return max(size or (0, 0), (width, height), key=lambda one: one[0] * one[1])


def _is_note(marker: int, beginning: bytes) -> bool:
    noted = marker == _COMMENT or 0xE0 <= marker <= 0xEF
    return noted and not any(marker == own and beginning.startswith(mark) for own, mark in _COLOURS)


def _check_scans(data: bytes, start: int) -> None:
    if data.count(bytes([0xFF, _SCAN]), start) <= JPEG_SCANS:
        return  # what follows the picture, such as a film, has the two bytes by chance
    scans, position = 0, start
    while (found := _MARKER.search(data, position)) is not None and found.start() + 4 <= len(data):
        marker = data[found.start() + 1]
        if marker == _END:
            return
        scans += marker == _SCAN
        if scans > JPEG_SCANS:
            raise NotAnImageError(f"it has more than {JPEG_SCANS} scans")
        position = found.start() + 2 + _length(data, found.start())
