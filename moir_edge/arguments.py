"""Types of arguments: a wrong one is refused in one line, numbers and texts of numpy are taken as Python's."""

from __future__ import annotations

import dataclasses
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from moir_edge.errors import DataError, one_line

__all__ = [
    "check_fields",
    "check_run",
    "file_path",
    "folder_or_id",
    "given",
    "given_path",
    "instance",
    "integer",
    "integers",
    "mapping",
    "number",
    "numbers_of",
    "paths",
    "sources",
    "strings",
    "switch",
    "text",
    "wrong_type",
]

_SHOWN = 60  # characters of a value in a message

Kind = TypeVar("Kind")


def integer(name: str, value: Any) -> int | None:
    """Return an integer of Python or numpy as an int, None as None; a bool is refused.

    Raises:
        DataError: It is something else.
    """
    if value is None:
        return None
    try:
        if _is_bool(value):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise wrong_type(name, value, "a whole number") from None


def number(name: str, value: Any) -> float | None:
    """Return a number of Python or numpy as a float, None as None; a bool is refused.

    Raises:
        DataError: It is something else, or a whole number that no float can hold.
    """
    if value is None:
        return None
    if _is_bool(value) or not isinstance(value, numbers.Real):
        raise wrong_type(name, value, "a number")
    try:
        return float(value)
    except OverflowError:
        raise wrong_type(name, value, "a number that a float can hold") from None


def switch(name: str, value: Any) -> bool:
    """Return a bool of Python or numpy as a bool.

    Raises:
        DataError: It is something else, as the text ``"off"``, which would count as True.
    """
    if not _is_bool(value):
        raise wrong_type(name, value, "True or False")
    return bool(value)


def strings(name: str, value: Any) -> tuple[str, ...] | None:
    """Return one string or several, in a list or another iterable, as a tuple; None as None.

    Raises:
        DataError: It is something else.
    """
    if value is None:
        return None
    found = (value,) if isinstance(value, str) else _entries(value)
    if found is None or not all(isinstance(one, str) for one in found):
        raise wrong_type(name, value, "a string or a list of strings")
    return found


def integers(name: str, value: Any) -> tuple[int, ...] | None:
    """Return one integer or several, in a list or another iterable, as a tuple; None as None.

    Raises:
        DataError: It is something else.
    """
    if value is None:
        return None
    found = tuple(value) if isinstance(value, set | frozenset) else _entries(value)
    return tuple(given(name, integer(name, one)) for one in ((value,) if found is None else found))


def numbers_of(name: str, value: Any) -> tuple[float, ...] | None:
    """Return one number or several, in a list or another iterable, as a tuple of floats; None as None.

    Raises:
        DataError: It is something else.
    """
    if value is None:
        return None
    found = _entries(value)
    return tuple(given(name, number(name, one)) for one in ((value,) if found is None else found))


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


def given_path(name: str, value: Any) -> Path:
    """Return a path, or a string that can be one, as a `Path`.

    Raises:
        DataError: It is something else, None too, or no file can have that name.
    """
    return given(name, file_path(name, value), "a path")


def folder_or_id(name: str, value: Any) -> Any:
    """Return a folder, or a string that may be an id of the hub, as it was given.

    Raises:
        DataError: It is something else, or no folder can have that name.
    """
    given_path(name, value)
    return value


def paths(name: str, value: Any) -> tuple[Path, ...]:
    """Return one path or several, in a list or another iterable, as a tuple.

    Raises:
        DataError: It is something else.
    """
    if isinstance(value, str | os.PathLike):
        return (given_path(name, value),)
    found = _entries(value)
    if found is None:
        raise wrong_type(name, value, "a path or a list of paths")
    return tuple(given_path(name, one) for one in found)


def sources(name: str, value: Any) -> tuple[Any, ...]:
    """Return one folder or hub id, or several in a list or another iterable, as a tuple; each as it was given.

    Raises:
        DataError: It is something else.
    """
    found = (value,) if isinstance(value, str | os.PathLike) else _entries(value)
    if found is None:
        raise wrong_type(name, value, "a path or a list of paths")
    for one in found:
        given_path(name, one)
    return found


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


def instance(name: str, value: Any, kind: type[Kind]) -> Kind | None:
    """Return an object of a class as it is, None as None.

    Raises:
        DataError: It is something else.
    """
    if value is not None and not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise wrong_type(name, value, f"{article} {kind.__name__}")
    return value


def given(name: str, value: Kind | None, expected: str = "given") -> Kind:
    """Return a value that may not be None.

    Raises:
        DataError: It is None.
    """
    if value is None:
        raise wrong_type(name, None, expected)
    return value


def check_run(progress: Any, **switches: Any) -> None:
    """Refuse a `progress` that cannot be called, and switches such as `force` that are not True or False.

    Raises:
        DataError: One of them has a wrong type; the message names it.
    """
    if progress is not None and not callable(progress):
        raise wrong_type("progress", progress, "a function of (stage, done, total), or None")
    for name, value in switches.items():
        switch(name, value)


def check_fields(record: Any, prefix: str = "") -> None:
    """Check the plain fields of a new dataclass by their annotations, and store numbers, paths and lists as Python's.

    Args:
        record: A dataclass whose module has ``from __future__ import annotations``, frozen or not. Fields of other types
            than this module knows are left to the class.
        prefix: In front of a field's name in a message.

    Raises:
        DataError: A field has a wrong type; the message names the field.
    """
    for field in dataclasses.fields(record):
        kind = str(field.type)
        check = _BY_ANNOTATION.get(kind.removesuffix(" | None"))
        if check is None or not field.init:
            continue
        name, value = f"{prefix}{field.name}", getattr(record, field.name)
        if value is None and kind.endswith(" | None"):
            continue
        object.__setattr__(record, field.name, given(name, check(name, value)))


def wrong_type(name: str, value: Any, expected: str) -> DataError:
    """Return the error for an argument of a wrong type."""
    try:
        shown = one_line(repr(value)[: _SHOWN * 4])
    except RecursionError:
        shown = "nested too deeply to be shown"
    except Exception:  # its own class fails to describe it
        shown = "a value"
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
    return DataError(f"{name} is {shown} ({type(value).__name__}); it must be {expected}")


def _is_bool(value: Any) -> bool:
    """Return whether a value is a bool of Python, or of numpy, which need not be imported for that."""
    kind = type(value)
    return isinstance(value, bool) or (kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_"))  # fmt: skip


def _entries(value: Any) -> tuple[Any, ...] | None:
    """Return the entries of an iterable that stands for a list; None for others: texts, bytes, mappings, sets without an order."""
    if isinstance(value, str | bytes | bytearray | memoryview | Mapping | set | frozenset):
        return None
    if not isinstance(value, Iterable):
        return None
    try:
        return tuple(value)
    except TypeError:  # an array without axes
        return None


_BY_ANNOTATION: Mapping[str, Callable[[str, Any], Any]] = {
    "int": integer,
    "float": number,
    "str": text,
    "bool": switch,
    "Path": file_path,
    "tuple[str, ...]": strings,
    "Sequence[str]": strings,
    "tuple[int, ...]": integers,
    "tuple[float, ...]": numbers_of,
    "tuple[Path, ...]": paths,
    "Mapping[str, str]": mapping,
}
