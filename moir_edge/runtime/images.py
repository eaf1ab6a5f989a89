"""Turn whatever a user gives as an image into one upright RGB picture, or say in one line why not."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from moir_edge.errors import DataError
from moir_edge.runtime.arguments import wrong_type

__all__ = ["ImageInput", "read_image"]

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]"


def read_image(source: ImageInput, *, name: str = "the image in memory") -> Image.Image:
    """Return an image as upright RGB.

    The EXIF orientation is applied; transparency is composited onto white, as Hugging Face's image
    processors do with a Pillow image; grayscale and palette images become RGB.

    Args:
        source: A file path, the bytes of an image file, a Pillow image, or an array (height, width),
            (height, width, 1), (height, width, 3) or (height, width, 4) of uint8.
        name: What messages call bytes.

    Raises:
        DataError: The file is missing, truncated or no image, or the array has another shape or type.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source))
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), name)
    if not isinstance(source, str | os.PathLike):
        raise wrong_type("an image", source, "a path, bytes, a Pillow image or a uint8 array")
    path = Path(source)
    if not path.exists():
        raise DataError(f"{path}: no such image file; check the path")
    if not path.is_file():
        raise DataError(f"{path} is a folder, not an image file; give one file per image")
    return _decode(path, str(path))


def _decode(stream: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 megapixels on, which phones reach; its hard limit at twice that stays.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                image.load()
                return _to_rgb(image)
    except UnidentifiedImageError as error:
        raise DataError(
            f"{name} is not an image that Pillow can read; give a PNG, JPEG, WebP, BMP or GIF file"
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large: {error}; scale it down first") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(
            f"{name} is damaged or truncated ({error}); copy or save the image again"
        ) from error


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    shape_fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not shape_fits or array.size == 0:
        raise DataError(
            f"an image array must be uint8 of shape (height, width[, 1, 3 or 4]), "
            f"got {array.dtype} {array.shape}; convert it first"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _to_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if "A" in upright.getbands() or upright.info.get("transparency") is not None:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return upright.convert("RGB")
