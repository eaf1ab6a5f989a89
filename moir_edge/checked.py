"""Check the arguments of a public function before its body runs: one line over the signature says what each must be."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from moir_edge.arguments import given, instance, integer, number, wrong_type

__all__ = [
    "a",
    "a_count",
    "a_model",
    "a_module",
    "a_tensor",
    "a_tokenizer",
    "an_onnx_model",
    "checked",
    "each",
    "function",
    "has",
    "lazily",
    "maybe",
    "numbers",
    "optional",
    "required",
    "size",
]

Check = Callable[[str, Any], Any]
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def checked(
    **checks: Check,
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Return a decorator by which a function gets each named argument as its check returns it.

    Args:
        checks: By parameter, a function of name and value as `moir_edge.arguments` has them. One that is not given is not checked.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        signature = inspect.signature(function)
        unknown = checks.keys() - signature.parameters.keys()
        if unknown:
            raise ValueError(f"{function.__name__} has no parameter {', '.join(sorted(unknown))}")

        @functools.wraps(function)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            bound = signature.bind(*args, **kwargs)
            for name, check in checks.items():
                if name in bound.arguments:
                    bound.arguments[name] = check(name, bound.arguments[name])
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def required(check: Check) -> Check:
    """Return a check that refuses None too."""
    return lambda name, value: given(name, check(name, value))


def a(*kinds: type) -> Check:
    """Return a check for an object of one of these classes."""

    def check(name: str, value: Any) -> Any:
        if len(kinds) == 1:
            return given(name, instance(name, value, kinds[0]), f"a {kinds[0].__name__}")
        if not isinstance(value, kinds):
            raise wrong_type(name, value, " or ".join(f"a {kind.__name__}" for kind in kinds))
        return value

    return check


def maybe(*kinds: type) -> Check:
    """Return a check for an object of one of these classes, or None."""
    return optional(a(*kinds))


def optional(check: Check) -> Check:
    """Return a check that lets None pass."""
    return lambda name, value: None if value is None else check(name, value)


def function(name: str, value: Any) -> Any:
    """Return a function as it is, None as None.

    Raises:
        DataError: It cannot be called.
    """
    if value is not None and not callable(value):
        raise wrong_type(name, value, "a function, or None")
    return value


def each(check: Check) -> Check:
    """Return a check for a list, or another iterable, each of whose entries passes a check; the result is a list."""

    def entries(name: str, value: Any) -> Any:
        if isinstance(value, str | bytes | bytearray | memoryview | dict | set | frozenset):
            raise wrong_type(name, value, "a list")
        try:
            found = list(value)
        except TypeError:
            raise wrong_type(name, value, "a list") from None
        return [check(name, one) for one in found]

    return entries


numbers = each(required(number))
"""Check for a list of numbers."""


def size(name: str, value: Any) -> int:
    """Return a whole number of at least 1, and no more than an array can have.

    Raises:
        DataError: It is something else.
    """
    found = integer(name, value)
    if found is None or not 1 <= found <= sys.maxsize:
        raise wrong_type(name, value, "a whole number of at least 1, such as a width")
    return found


def a_count(name: str, value: Any) -> int:
    """Return a whole number of things, 0 too.

    Raises:
        DataError: It is something else, or more than a machine can count.
    """
    found = integer(name, value)
    if found is None or not 0 <= found <= sys.maxsize:
        raise wrong_type(name, value, "a whole number of things")
    return found


def has(expected: str, *attributes: str) -> Check:
    """Return a check for an object with these attributes: a class of a library that the check need not import."""

    def check(name: str, value: Any) -> Any:
        if isinstance(value, type) or not all(hasattr(value, one) for one in attributes):
            raise wrong_type(name, value, expected)
        return value

    return check


def lazily(check: Check) -> Check:
    """Return a check for an iterable whose entries are checked when their turn comes, as feeds that are made one at a time."""

    def entries(name: str, value: Any) -> Iterator[Any]:
        if isinstance(value, str | bytes | dict):
            raise wrong_type(name, value, "an iterable")
        try:
            return map(functools.partial(check, name), value)
        except TypeError:
            raise wrong_type(name, value, "an iterable") from None

    return entries


def a_tokenizer(name: str, value: Any) -> Any:
    """Return a tokenizer, or a processor that holds one, as it is.

    Raises:
        DataError: It is something else.
    """
    if isinstance(value, type) or not (hasattr(value, "get_vocab") or hasattr(value, "tokenizer")):
        raise wrong_type(name, value, "a tokenizer of transformers, or a processor that holds one")
    return value


a_module = has("a module of torch", "named_modules", "named_parameters")
a_model = has("a model of transformers", "named_modules", "config")
a_tensor = has("a tensor of torch", "requires_grad", "dim")
an_onnx_model = has("an ONNX model", "graph", "producer_name")
