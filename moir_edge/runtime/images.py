"""Turn whatever a user gives as an image into one upright RGB picture, or say in one line why not."""

from __future__ import annotations

import io
import os
import stat
from importlib import import_module
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from moir_edge.arguments import wrong_type
from moir_edge.errors import DataError
from moir_edge.image_limit import checked_image_pixels, image_pixels
from moir_edge.limits import IMAGE_FILE_EXTRA_BYTES, MOST_IMAGE_PIXELS, MOST_IMAGE_SIDE
from moir_edge.printable import bounded
from moir_edge.runtime.image_files import Contained, Orientation, contained

__all__ = ["ImageInput", "image_file_bytes", "read_image"]

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[Any]"

_FORMATS = "PNG, JPEG, WebP, BMP or GIF"
_BYTES_PER_PIXEL = 4  # of a file that is not compressed at all
_WEBP_BYTES_PER_PIXEL = 2  # libwebp and Pillow hold the file three times
_PILLOW_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF")
# Pillow's class that reads each.
_READERS = {
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "JPEG": ("JpegImagePlugin", "JpegImageFile"),
    "WEBP": ("WebPImagePlugin", "WebPImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
}
_ORIENTATION_TAG = 0x0112
_LONGEST_NAME = 300  # characters of a path in a message
_PATCH = 1024  # side of the parts in which transparency is composited, in pixels
_WHITE = (255, 255, 255, 255)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    source: ImageInput, *, name: str = "the image in memory", max_pixels: int | None = None
) -> Image.Image:
    """Return an image as upright RGB.

    The EXIF orientation is applied; transparency is composited onto white, as Hugging Face's image
    processors do with a Pillow image; grayscale and palette images become RGB. An animation gives its first
    frame. A Pillow image that is upright RGB already comes back as it is, not copied.

    Args:
        source: The path of a PNG, JPEG, WebP, BMP or GIF file, the bytes of one, a binary file that is open at its beginning, a
            Pillow image, or an array (height, width), (height, width, 1), (height, width, 3) or (height, width, 4) of uint8.
        name: What messages call bytes.
        max_pixels: Width times height at most, checked before any pixel is decoded; None takes
            `moir_edge.image_limit.image_pixels`.

    Raises:
        DataError: The file is missing, truncated, too large or of another format, or the array has another shape or type.
    """
    limit = image_pixels() if max_pixels is None else checked_image_pixels(max_pixels)
    if isinstance(source, Image.Image):
        return _from_pillow(source, name, limit)
    if isinstance(source, np.ndarray):
        return _from_array(source, name, limit)
    if isinstance(source, bytes | bytearray | memoryview):
        _check_bytes(memoryview(source).nbytes, name, limit, _BYTES_PER_PIXEL)
        return _decode(bytes(source), name, limit)
    if callable(getattr(source, "read", None)) and not isinstance(source, type):
        return _decode(_rest_of(source, name, image_file_bytes(limit)), name, limit)
    if not isinstance(source, str | os.PathLike) or not isinstance(os.fspath(source), str):
        expected = "a path, bytes, an open binary file, a Pillow image or a uint8 array"
        raise wrong_type("an image", source, expected)
    path = os.fsdecode(source)
    name = bounded(path, _LONGEST_NAME)
    return _decode(_file_content(path, name, image_file_bytes(limit)), name, limit)


def image_file_bytes(max_pixels: int | None = None) -> int:
    """Return the most bytes that an image file may have: what its pixels take uncompressed, and a little more."""
    limit = image_pixels() if max_pixels is None else max_pixels
    return _BYTES_PER_PIXEL * limit + IMAGE_FILE_EXTRA_BYTES


def _file_content(path: str, name: str, most_bytes: int) -> bytes:
    """Return the beginning of a regular file, one byte more than is taken at most."""
    try:
        _require_regular(os.stat(path).st_mode, name)
        # Opening a pipe waits for its other end unless told not to, and what stands there may have changed.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags), "rb") as stream:
            _require_regular(os.fstat(stream.fileno()).st_mode, name)
            return stream.read(most_bytes + 1)
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such image file; check the path") from error
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{name} cannot be read ({reason}); check the path") from error


def _rest_of(stream: Any, name: str, most_bytes: int) -> bytes:
    """Return what an open file still gives, one byte more than is taken at most."""
    content = bytearray()
    try:
        while len(content) <= most_bytes:
            part = stream.read(most_bytes + 1 - len(content))
            if not isinstance(part, bytes | bytearray | memoryview):
                expected = "a file that is open for reading bytes, as by open(path, 'rb')"
                raise wrong_type("an image", stream, expected)
            if not part:
                break
            content += part
    except (OSError, ValueError) as error:  # a closed file is a ValueError
        raise DataError(f"{name} cannot be read ({error}); open the file again") from error
    return bytes(content)


def _require_regular(mode: int, name: str) -> None:
    if stat.S_ISDIR(mode):
        raise DataError(f"{name} is a folder, not an image file; give one file per image")
    if not stat.S_ISREG(mode):
        raise DataError(f"{name} is a pipe or a device, not an image file; give a regular file")


def _decode(data: bytes, name: str, limit: int) -> Image.Image:
    _check_bytes(len(data), name, limit, _BYTES_PER_PIXEL)
    try:
        found = contained(data)
        if found is None:
            raise DataError(f"{name} is not an image in {_FORMATS}; save it as one of these")
        _check_size(found.width, found.height, name, limit)
        if found.format == "WEBP":
            _check_bytes(len(data), name, limit, _WEBP_BYTES_PER_PIXEL)
        return _to_rgb(_loaded(found, name, limit), found.orientation)
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large: {error}; scale it down first") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(
            f"{name} is damaged or truncated ({error}); copy or save the image again"
        ) from error


def _check_bytes(count: int, name: str, limit: int, per_pixel: int) -> None:
    most = per_pixel * limit + IMAGE_FILE_EXTRA_BYTES
    if count > most:
        raise DataError(
            f"{name} has more than {most} bytes, the most for a file of up to {limit} pixels; "
            "save it smaller, or raise `max_image_pixels`"
        )


def _check_size(width: int, height: int, name: str, limit: int) -> None:
    if min(width, height) < 1:
        raise DataError(f"{name} has {width}x{height} pixels; give an image that has some")
    if width * height > limit:
        raise DataError(
            f"{name} has {width}x{height} pixels, more than {limit}; scale it down, or raise `max_image_pixels`"
        )
    if max(width, height) > MOST_IMAGE_SIDE:
        raise DataError(
            f"{name} has {width}x{height} pixels, one side longer than {MOST_IMAGE_SIDE}; crop it to a less extreme shape"
        )


def _loaded(found: Contained, name: str, limit: int) -> Image.Image:
    """Decode the pixels; what Pillow holds of the file besides goes with the file object."""
    with _opened(found) as image:
        _check_size(image.width, image.height, name, limit)
        image.load()
    # WebP's decoder stays with its image, and is twice as large.
    return image.copy() if found.format == "WEBP" else image


def _opened(found: Contained) -> Image.Image:
    """Open a file by the one class that reads its format; `Image.open` imports those of five formats first."""
    pixels, most = found.width * found.height, 2 * (Image.MAX_IMAGE_PIXELS or MOST_IMAGE_PIXELS)
    if pixels > most:  # the limit of whoever uses Pillow in the same process
        raise Image.DecompressionBombError(f"{pixels} pixels, and Pillow's limit is {most}")
    module, name = _READERS[found.format]
    image: Image.Image = getattr(import_module(f"PIL.{module}"), name)(io.BytesIO(found.content))
    return image


def _from_array(array: npt.NDArray[Any], name: str, limit: int) -> Image.Image:
    shape_fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not shape_fits or array.size == 0:
        raise DataError(
            f"an image array must be uint8 of shape (height, width[, 1, 3 or 4]), "
            f"got {array.dtype} {array.shape}; convert it first"
        )
    _check_size(array.shape[1], array.shape[0], name, limit)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), 1)


def _from_pillow(image: Image.Image, name: str, limit: int) -> Image.Image:
    _check_size(image.width, image.height, name, limit)
    if getattr(image, "tile", None) and image.format not in _PILLOW_FORMATS:
        raise DataError(
            f"{name} was opened from a {image.format} file; give a {_FORMATS} image, or load it first with its load()"
        )
    try:
        return _to_rgb(image, _orientation(image))
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(
            f"{name}, a Pillow image of mode {image.mode}, cannot be used ({error}); convert it to RGB"
        ) from error


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a Pillow image, without reading more of its EXIF data than Pillow has read."""
    read = getattr(image, "_exif", None)
    if read is not None and _ORIENTATION_TAG in read:
        return int(read[_ORIENTATION_TAG])
    found = Orientation()
    takes = {
        "exif": found.exif,
        "Raw profile type exif": found.profile,
        "xmp": found.xmp,
        "XML:com.adobe.xmp": found.xmp,
    }
    for key, take in takes.items():
        value = image.info.get(key, b"")
        take(value.encode() if isinstance(value, str) else value)
    return found.value


def _to_rgb(image: Image.Image, orientation: int) -> Image.Image:
    """Return upright RGB; besides the image given, no more than two copies are held at any time."""
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = _on_white(image)
    elif image.mode == "RGB":
        image.load()
    else:
        image = image.convert("RGB")
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _on_white(image: Image.Image) -> Image.Image:
    """Return an image with transparency as RGB on white, composited part by part to save memory."""
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, _PATCH):
        for left in range(0, image.width, _PATCH):
            box = (left, top, min(left + _PATCH, image.width), min(top + _PATCH, image.height))
            part = image.crop(box).convert("RGBA")
            white = Image.new("RGBA", part.size, _WHITE)
            rgb.paste(Image.alpha_composite(white, part).convert("RGB"), box)
    return rgb
