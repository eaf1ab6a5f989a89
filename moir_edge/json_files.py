"""The one reader of JSON files: bounded in bytes, any damage is one line that names the file, and a wrong shape names the key."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from moir_edge.errors import DataError, MoirEdgeError, one_line
from moir_edge.limits import JSON_BYTES

__all__ = ["holds_more", "json_kind", "read_bounded", "read_json", "read_object"]

_REMEDY = "copy the file again"


def read_bounded(
    path: Path,
    most_bytes: int,
    *,
    error: type[MoirEdgeError] = DataError,
    remedy: str = _REMEDY,
) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file; a pipe or a device is refused, because reading one may never end.
        most_bytes: The largest size that is read.
        error: What to raise.
        remedy: What the user can do, the end of the message.
    """
    if path.exists() and not path.is_file():
        raise error(f"{path} is not a regular file; {remedy}")
    try:
        with path.open("rb") as stream:
            # The buffer of a read is allocated as large as asked for.
            size = min(os.fstat(stream.fileno()).st_size, most_bytes)
            content = stream.read(size + 1)
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror or problem}); {remedy}") from problem
    if len(content) > most_bytes:
        raise error(f"{path} has more than {most_bytes:,} bytes, the most that is read; {remedy}")
    return content


def read_json(
    path: Path,
    *,
    error: type[MoirEdgeError] = DataError,
    remedy: str = _REMEDY,
    most_bytes: int = JSON_BYTES,
) -> Any:
    """Return what a JSON file holds; a byte order mark is left out.

    Args:
        path: The file.
        error: Raised where it cannot be read, is too large, is not UTF-8 JSON, or is nested too deeply.
        remedy: What the user can do, the end of the message.
        most_bytes: The largest size that is read.
    """
    content = read_bounded(path, most_bytes, error=error, remedy=remedy)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except RecursionError as problem:
        raise error(f"{path} is nested too deeply; {remedy}") from problem
    except ValueError as problem:
        raise error(f"{path} cannot be read as JSON ({one_line(problem)}); {remedy}") from problem


def read_object(
    path: Path,
    *,
    error: type[MoirEdgeError] = DataError,
    remedy: str = _REMEDY,
    most_bytes: int = JSON_BYTES,
) -> dict[str, Any]:
    """Return the JSON object of a file; see `read_json`, which this is but for the shape.

    Raises:
        MoirEdgeError: `error`, also for a list, a text or a number in place of the object.
    """
    content = read_json(path, error=error, remedy=remedy, most_bytes=most_bytes)
    if not isinstance(content, dict):
        raise error(f"{path} holds {json_kind(content)}, expected an object {{...}}; {remedy}")
    return content


def holds_more(value: Any, most: int) -> bool:
    """Say whether decoded JSON holds more values than so many: keys are not counted, containers are.

    pydantic keeps about 2 kB for each value of a wrong type, so ask before it checks what a file holds.
    """
    left, waiting = most, [value]
    while waiting and left >= 0:
        left -= 1
        inner = waiting.pop()
        if isinstance(inner, dict):
            waiting.extend(inner.values())
        elif isinstance(inner, list | tuple):
            if len(inner) > left:
                return True
            waiting.extend(inner)
    return left < 0


def json_kind(value: Any) -> str:
    """Return what JSON calls a value, with its article, as ``a list`` or ``null``."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    if value is None:
        return "null"
    return kinds.get(type(value), "a number")
