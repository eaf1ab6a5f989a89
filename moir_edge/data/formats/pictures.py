"""Pictures that lie inside a table become files, which is how rows name them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from moir_edge.data.formats.local import refuse_remote_address
from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.temporary import TemporaryFolder

__all__ = ["picture_file"]

_ORDINARY = re.compile(r"\.[A-Za-z0-9]{1,8}")


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
        return _stored(value["bytes"], _suffix(value.get("path")))
    name = value.get("path") if isinstance(value, Mapping) else value
    if not isinstance(name, str):
        raise DataError(
            f"{where}: got {type(value).__name__} for an image, expected an image, its bytes or a path"
        )
    if "://" in name:
        refuse_remote_address(name, folder, where)
        return _stored(_downloaded(name, where), _suffix(name))
    path = folder / name
    if not os.path.isfile(path):
        raise DataError(f"{where}: image {path} does not exist")
    return path


def _downloaded(address: str, where: str) -> bytes:
    """Return the bytes of a picture that a stream only names, up to what an image file may have."""
    from datasets import DownloadConfig
    from datasets.utils.file_utils import xopen

    from moir_edge.runtime.images import image_file_bytes

    most = image_file_bytes()
    try:
        with xopen(address, "rb", download_config=DownloadConfig()) as stream:
            content: bytes = stream.read(most + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: image {address} cannot be read: {error}") from error
    if len(content) > most:
        raise DataError(
            f"{where}: image {address} has more than {most} bytes; leave it out, or raise `max_image_pixels`"
        )
    return content


def _suffix(name: Any) -> str:
    """Return the end of a picture's name in the table if it is an ordinary one."""
    end = Path(name).suffix if isinstance(name, str) else ""
    return end if _ORDINARY.fullmatch(end) else ""


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
