"""Read a prompt or an image from standard input where `-` is given."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moir_edge.errors import DataError
from moir_edge.limits import PROMPT_BYTES

if TYPE_CHECKING:
    from moir_edge.runtime.images import ImageInput

__all__ = ["read_pictures", "read_prompt"]

_DASH = "-"


def read_prompt(prompt: str, images: Sequence[Path]) -> str:
    """Return the prompt; ``-`` reads it from standard input as UTF-8 text (UTF-16 with a byte order mark too).

    A byte order mark and the line ends of Windows are taken away, and so is white space at the end.

    Args:
        prompt: The prompt as given on the command line.
        images: The images as given, of which none may be ``-`` as well.

    Raises:
        DataError: Standard input is asked for twice, is empty, too long, or not text.
    """
    wanted = [str(image) for image in images].count(_DASH) + (prompt == _DASH)
    if wanted > 1:
        raise DataError(
            f"standard input can be read once, but `-` is given {wanted} times among --prompt and --image; "
            "give files for the others"
        )
    if prompt != _DASH:
        return prompt
    data = _read("the prompt", PROMPT_BYTES)
    if len(data) > PROMPT_BYTES:
        raise DataError(
            f"the prompt on standard input has more than {PROMPT_BYTES} bytes; shorten the prompt"
        )
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the prompt on standard input is not UTF-8 text (byte {error.start}); convert it first"
        ) from error
    return text.replace("\r\n", "\n").rstrip()


def read_pictures(images: Sequence[Path]) -> list[ImageInput]:
    """Read the images in order; ``-`` reads the bytes of an image file from standard input.

    Those after the first `moir_edge.image_limit.image_pixels` pixels are not kept decoded: they come back as they were given.

    Raises:
        DataError: An image cannot be used, or standard input is empty.
    """
    from moir_edge.image_limit import image_pixels
    from moir_edge.runtime.images import image_file_bytes, read_image

    kept: list[ImageInput] = []
    room = image_pixels()
    for path in images:
        piped = str(path) == _DASH
        source = _read("the image", image_file_bytes()) if piped else path
        image = read_image(source, name="standard input")
        room -= image.width * image.height
        kept.append(image if room >= 0 else source)
    return kept


def _read(what: str, most_bytes: int) -> bytes:
    """Return what stands on standard input, up to one byte more than is taken."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read(most_bytes + 1)
    if not data.strip():
        raise DataError(
            f"standard input is empty, and `-` takes {what} from it; pipe or redirect a file into the command"
        )
    return data
