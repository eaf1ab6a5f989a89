"""Types of keyword arguments: a wrong one is refused in one line, the integers and floats of numpy are taken."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moir_edge.errors import DataError

__all__ = ["file_path", "integer", "mapping", "number", "strings", "switch", "text", "wrong_type"]

_SHOWN = 60  # characters of a value in a message


def integer(name: str, value: Any) -> int | None:
    """Return an integer of Python or numpy as an int, None as None; a bool is refused.

    Raises:
        DataError: It is something else.
    """
    if value is None:
        return None
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise wrong_type(name, value, "a whole number") from None


def number(name: str, value: Any) -> float | None:
    """Return a number of Python or numpy as a float, None as None; a bool is refused.

    Raises:
        DataError: It is something else.
    """
    if value is None:
        return None
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.integer | np.floating
    ):
        raise wrong_type(name, value, "a number")
    return float(value)


def switch(name: str, value: Any) -> bool:
    """Return a bool of Python or numpy as a bool.

    Raises:
        DataError: It is something else, as the text ``"off"``, which would count as True.
    """
    if not isinstance(value, bool | np.bool_):
        raise wrong_type(name, value, "True or False")
    return bool(value)


def strings(name: str, value: Any) -> tuple[str, ...] | None:
    """Return one string or a list of them as a tuple, None as None.

    Raises:
        DataError: It is something else.
    """
    if value is None:
        return None
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
        raise wrong_type(name, value, "a string or a list of strings")
    return tuple(found)


def text(name: str, value: Any) -> str | None:
    """Return a string as it is, None as None.

    Raises:
        DataError: It is something else.
    """
    if value is not None and not isinstance(value, str):
        raise wrong_type(name, value, "a string")
    return value


def file_path(name: str, value: Any) -> Path | None:
    """Return a path, or a string that can be one, as a `Path`; None as None.

    Raises:
        DataError: It is something else, or no file can have that name.
    """
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise wrong_type(name, value, "a path")
    try:
        usable = b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise wrong_type(name, value, "a path that a file can have")
    return Path(value)


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Return a mapping with string keys as a dict, None as an empty one.

    Raises:
        DataError: It is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise wrong_type(name, value, "a mapping from names to values")
    return dict(value)


def wrong_type(name: str, value: Any, expected: str) -> DataError:
    """Return the error for an argument of a wrong type."""
    try:
        shown = " ".join(repr(value).split())
    except RecursionError:
        shown = "nested too deeply to be shown"
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
    return DataError(f"{name} is {shown} ({type(value).__name__}); it must be {expected}")
