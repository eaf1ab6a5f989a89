"""The orientation of an image, read from its metadata without following anything else that they point to."""

from __future__ import annotations

import re
import zlib
from struct import error as StructError
from struct import unpack_from

__all__ = ["Orientation"]

_TAG = 0x0112
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_EXIF_START = b"Exif\x00\x00"
_XMP_START = b"http://ns.adobe.com/xap/1.0/\x00"
_VALUES = range(1, 9)
_TEXT_BYTES = 1 << 20


class Orientation:
    """Collects what a file says of its orientation; EXIF goes before XMP, as with Pillow."""

    def __init__(self) -> None:
        self._exif: int | None = None
        self._xmp: int | None = None

    @property
    def value(self) -> int:
        """1 to 8 as EXIF counts them; 1, upright, where nothing valid was found."""
        stated = self._xmp if self._exif is None else self._exif
        return stated if stated is not None and stated in _VALUES else 1

    def exif(self, data: bytes) -> None:
        """Take the EXIF data of a file, with or without their mark in front."""
        if self._exif is None:
            self._exif = _from_exif(data.removeprefix(_EXIF_START))

    def xmp(self, data: bytes) -> None:
        """Take the XMP data of a file."""
        found = _IN_XMP.search(data)
        if self._xmp is None and found is not None:
            self._xmp = int(found[1])

    def profile(self, text: bytes) -> None:
        """Take EXIF data that ImageMagick has written as text."""
        self.exif(_unhexed(text))

    def jpeg_segment(self, data: bytes) -> None:
        """Take what an APP1 segment of a JPEG file holds."""
        if data.startswith(_EXIF_START):
            self.exif(data)
        elif data.startswith(_XMP_START):
            self.xmp(data)

    def png_text(self, kind: bytes, data: bytes) -> None:
        """Take a text chunk of a PNG file, in which ImageMagick keeps EXIF data and others XMP."""
        keyword, _, rest = data.partition(b"\x00")
        if keyword == b"Raw profile type exif":
            self.profile(_inflated(rest[1:]) if kind == b"zTXt" else rest)
        elif keyword == b"XML:com.adobe.xmp" and kind == b"iTXt":
            text = rest[2:].split(b"\x00", 2)[-1]
            self.xmp(_inflated(text) if rest[:1] == b"\x01" else text)


def _from_exif(data: bytes) -> int | None:
    """Return the orientation of the first directory, or None."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    try:
        (start,) = unpack_from(order + "I", data, 4)
        (entries,) = unpack_from(order + "H", data, start)
        for entry in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count = unpack_from(order + "HHI", data, entry)
            if tag == _TAG and count == 1 and kind in _KINDS:
                return int(unpack_from(order + _KINDS[kind], data, entry + 8)[0])
    except StructError:
        pass  # the directory is cut off
    return None


_KINDS = {1: "B", 3: "H", 4: "I"}


def _inflated(data: bytes) -> bytes:
    """Return the beginning of compressed text; nothing where it is damaged."""
    try:
        return zlib.decompressobj().decompress(data, _TEXT_BYTES)
    except zlib.error:
        return b""


def _unhexed(text: bytes) -> bytes:
    """Return the bytes of a profile in text: its name, its length and hexadecimal digits; nothing where it is damaged."""
    try:
        return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
    except ValueError:
        return b""
