"""Pictures that lie inside a table become files, which is how rows name them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.temporary import TemporaryFolder

__all__ = ["picture_file"]


def picture_file(value: Any, folder: Path, where: str) -> Path:
    """Return the file of one picture; one that is not a file yet is written to a temporary folder.

    Args:
        value: A path, the bytes of an image file, or what `datasets` stores, ``{"bytes": …, "path": …}``.
        folder: What a relative path is relative to.
        where: The row, for the message.

    Raises:
        DataError: It is none of these, or there is no such file.
        EnvironmentProblem: The temporary folder cannot be written.
    """
    if isinstance(value, bytes):
        return _stored(value, "")
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return _stored(value["bytes"], Path(value.get("path") or "").suffix)
    name = value.get("path") if isinstance(value, Mapping) else value
    if not isinstance(name, str):
        raise DataError(
            f"{where}: got {type(value).__name__} for an image, expected an image, its bytes or a path"
        )
    if "://" in name:
        return _stored(_downloaded(name, where), ".png")
    path = folder / name
    if not path.is_file():
        raise DataError(f"{where}: image {path} does not exist")
    return path


def _downloaded(address: str, where: str) -> bytes:
    """Return a picture that a stream only names, as PNG."""
    import datasets

    try:
        image = datasets.Image().decode_example({"path": address, "bytes": None})
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: image {address} cannot be read: {error}") from error
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _stored(content: bytes, suffix: str) -> Path:
    """Write bytes under their hash, unless they are there already."""
    path = _folder().path / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
    try:
        if not path.exists():
            path.write_bytes(content)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write an image of the data set to {path.parent}: {error.strerror or error}; "
            "free some space, or set TMPDIR to a folder with more"
        ) from error
    return path


@cache
def _folder() -> TemporaryFolder:
    """Return a folder that goes when this process ends."""
    return TemporaryFolder()
