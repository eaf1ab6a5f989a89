"""Common parts of the walks through the five kinds of image files."""

from __future__ import annotations

from dataclasses import dataclass, field

from moir_edge.limits import IMAGE_PARTS
from moir_edge.runtime.image_files.orientation import Orientation

__all__ = ["Contained", "NotAnImageError", "Walk"]

Piece = bytes | memoryview


class NotAnImageError(ValueError):
    """A file is damaged, or asks for more than an honest image of its size; the text says how."""


@dataclass(frozen=True, kw_only=True)
class Contained:
    """Size, orientation and pixels of one image file.

    Attributes:
        format: Pillow's name of the format.
        width: In pixels, before the orientation is applied.
        height: In pixels.
        content: A file of the same format with the pixels alone; of an animation, the first frame.
        orientation: As EXIF counts it, 1 to 8.
    """

    format: str
    width: int
    height: int
    content: bytes
    orientation: int = 1


@dataclass
class Walk:
    """Findings of a walk through a file so far.

    Attributes:
        pieces: What decoding needs, in order.
        size: (width, height) in pixels.
        orientation: What the metadata say of it.
    """

    pieces: list[Piece] = field(default_factory=list)
    size: tuple[int, int] | None = None
    orientation: Orientation = field(default_factory=Orientation)
    parts: int = 0

    def count(self) -> None:
        """Count one more part of the file.

        Raises:
            NotAnImageError: There are more than an honest file has.
        """
        self.parts += 1
        if self.parts > IMAGE_PARTS:
            raise NotAnImageError(f"it has more than {IMAGE_PARTS} parts")

    def found(self, name: str, data: bytes) -> Contained:
        """Return the result for a format; the file itself, not a copy, where nothing was left out.

        Raises:
            NotAnImageError: No size was found.
        """
        if self.size is None:
            raise NotAnImageError("it ends before its pixels begin")
        kept = sum(map(len, self.pieces))
        return Contained(
            format=name,
            width=self.size[0],
            height=self.size[1],
            content=data if kept == len(data) else b"".join(self.pieces),
            orientation=self.orientation.value,
        )
