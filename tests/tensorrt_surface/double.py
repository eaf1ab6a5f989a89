"""A stand-in for the `tensorrt` module that holds callers to the signatures of the real one.

It is made from what `record.py` wrote down of the real bindings, and computes nothing: a call with a wrong name, number or
type of arguments, an attribute that this version does not have, or a property that cannot be set fails as it would on
the device. What a method answers can be set per test.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["VERSIONS", "load_surface", "make_double"]

VERSIONS = ("10.3.0", "11.4.0")
_FOLDER = Path(__file__).parent
_BUFFERS = ("buffer", "Buffer", "typing_extensions.Buffer", "collections.abc.Buffer")
_PLAIN: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "SupportsInt": (int,),
    "float": (int, float),
    "SupportsFloat": (int, float),
    "str": (str,),
    "bool": (bool,),
    "Dims": (tuple, list),
}
_DEFAULTS: dict[str, Any] = {"bool": True, "int": 0, "str": "", "float": 0.0, "None": None}


def load_surface(version: str) -> dict[str, Any]:
    """Return what was recorded of a version of `tensorrt`."""
    text = (_FOLDER / f"tensorrt-{version}.json").read_text(encoding="utf-8")
    surface: dict[str, Any] = json.loads(text)
    return surface


def make_double(surface: dict[str, Any]) -> Any:
    """Return a module with the recorded classes.

    Its ``calls`` lists ``(class, method, arguments)`` in order; ``answers[class, method]`` is called with the same
    arguments for the method's result, which otherwise is True, zero or a new object of the type that is declared.
    """
    module: Any = ModuleType("tensorrt")
    module.__version__ = surface["version"]
    module.calls, module.answers = [], {}
    for name, members in surface["enums"].items():
        setattr(module, name, enum.IntEnum(name, members))
    for name, described in surface["classes"].items():
        setattr(module, name, _make_class(module, name, described))
    return module


def _make_class(module: Any, name: str, described: dict[str, Any]) -> type:
    # A host buffer can be read through memoryview; bytes can too.
    base = bytes if name == "IHostMemory" else object
    body: dict[str, Any] = {"__setattr__": _setter(name)}
    for property_name, facts in described["properties"].items():
        body[property_name] = _make_property(module, property_name, facts)
    for method, signatures in described["methods"].items():
        if signatures:
            body[method] = _make_method(module, name, method, signatures)
    kind = type(name, (base,), body)
    severity = enum.IntEnum(
        "Severity", {n: i for i, n in enumerate(described["constants"])} or {"NONE": 0}
    )
    for constant in described["constants"]:
        type.__setattr__(kind, constant, severity[constant])
    return kind


def _setter(name: str) -> Callable[[Any, str, Any], None]:
    def set_attribute(self: Any, attribute: str, value: Any) -> None:
        # A Python subclass has attributes of its own, the class itself has none.
        if type(self).__name__ == name and not isinstance(
            getattr(type(self), attribute, None), property
        ):
            raise AttributeError(f"{name} has no attribute {attribute!r}")
        object.__setattr__(self, attribute, value)

    return set_attribute


def _make_property(module: Any, name: str, facts: dict[str, Any]) -> property:
    store = f"_{name}"

    def get(self: Any) -> Any:
        return self.__dict__.get(store, _default(module, facts["type"]))

    def set_value(self: Any, value: Any) -> None:
        _require(module, facts["type"], value, name)
        self.__dict__[store] = value

    return property(get, set_value if facts["settable"] else None)


def _make_method(module: Any, kind: str, name: str, signatures: list[str]) -> Callable[..., Any]:
    overloads = [_Signature(text) for text in signatures]

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        problems = []
        for overload in overloads:
            try:
                bound = overload.bind(module, args, kwargs)
            except TypeError as error:
                problems.append(str(error))
                continue
            module.calls.append((kind, name, tuple(bound)))
            if (kind, name) in module.answers:
                return module.answers[kind, name](self, *bound)
            return _default(module, overload.result)
        raise TypeError(f"{kind}.{name}: {'; '.join(problems)}")

    return call


class _Signature:
    """One overload: ``name(self: Kind, first: type, second: type = default) -> type``."""

    def __init__(self, text: str) -> None:
        head, _, self.result = text.rpartition(" -> ")
        inside = head[head.index("(") + 1 : head.rindex(")")]
        self.parameters = [_parameter(part) for part in _split(inside)[1:]]

    def bind(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Return the arguments in order; `TypeError` if they do not fit."""
        names = [name for name, _, _ in self.parameters]
        if len(args) > len(names) or not set(kwargs) <= set(names[len(args) :]):
            raise TypeError(f"takes {names}, got {args} and {kwargs}")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        for name, kind, optional in self.parameters:
            if name in given:
                _require(module, kind, given[name], name)
            elif not optional:
                raise TypeError(f"the argument {name} is missing")
        return [given[name] for name in names if name in given]


def _split(text: str) -> list[str]:
    """Split at commas that are in no bracket."""
    return [part.strip() for part in re.split(r",(?![^\[\(<]*[\]\)>])", text) if part.strip()]


def _parameter(text: str) -> tuple[str, str, bool]:
    declared, _, default = text.partition(" = ")
    name, _, kind = declared.partition(": ")
    return name, kind, bool(default)


def _require(module: Any, kind: str, value: Any, name: str) -> None:
    """Raise `TypeError` unless a value is of the declared type; a type that is not known takes everything."""
    if kind in _BUFFERS:
        memoryview(value)
        return
    short = kind.rpartition(".")[2]
    expected = _PLAIN.get(short) or getattr(module, short, None)
    if expected is not None and not isinstance(value, expected):
        raise TypeError(f"{name} is a {type(value).__name__}, expected {kind}")


def _default(module: Any, kind: str) -> Any:
    if kind in _DEFAULTS:
        return _DEFAULTS[kind]
    if kind == "IHostMemory":
        return module.IHostMemory(b"serialized")
    found = getattr(module, kind, None)
    return (
        object.__new__(found)
        if isinstance(found, type) and not issubclass(found, enum.Enum)
        else None
    )
