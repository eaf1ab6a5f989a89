"""Errors of pydantic in one line: which field, what is wrong with it, what was given."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from moir_edge.errors import DataError, one_line

__all__ = ["first_fault", "refuses_in_one_line"]

_SHOWN = 60  # characters of a value in a message

Model = TypeVar("Model", bound=BaseModel)


def first_fault(error: ValidationError, *, whole: str) -> str:
    """Return the first fault, such as ``ratio: Input should be a valid number (got 'x')``.

    Args:
        error: From pydantic.
        whole: How a fault of no field in particular is named.
    """
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or whole
    got = f" (got {_shown(first['input'])})" if first["loc"] else ""
    return f"{where}: {first['msg'].removeprefix('Value error, ')}{got}"


def refuses_in_one_line(model: type[Model]) -> type[Model]:
    """Let the constructor of a model raise `DataError` in one line; `model_validate`, which readers call, stays pydantic's."""
    make: Any = model.__init__

    @functools.wraps(make)
    def checked(self: Model, /, **fields: Any) -> None:
        try:
            make(self, **fields)
        except ValidationError as error:
            raise DataError(
                f"{type(self).__name__}: {first_fault(error, whole='fields')}"
            ) from error

    model.__init__ = checked  # type: ignore[method-assign, assignment]
    return model


def _shown(value: Any) -> str:
    try:
        return repr(one_line(str(value)[:_SHOWN]) if str(value) else "")
    except Exception:  # its own class fails to describe it
        return f"a {type(value).__name__}"
