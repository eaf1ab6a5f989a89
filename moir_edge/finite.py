"""The one rule for NaN and infinity: a figure that is not finite never passes, and no file holds one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moir_edge.errors import NotFiniteError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["NOT_FINITE", "count_text", "is_finite", "json_text", "largest"]

NOT_FINITE = "not finite"
"""How reports spell a figure that was measured and is NaN or infinite."""


def is_finite(values: npt.ArrayLike) -> bool:
    """Return whether no value is NaN or infinite; True for an empty array.

    Args:
        values: Of any shape and any numeric type.
    """
    import numpy as np  # commands print JSON before they need an array

    return bool(np.isfinite(np.asarray(values)).all())


def largest(values: npt.ArrayLike) -> float:
    """Return the largest value, 0 for none; NaN where any value is not finite.

    Python's ``max`` and ``numpy.nanmax`` drop a NaN that stands before or among finite values.

    Args:
        values: Of any shape, none of them negative.
    """
    import numpy as np

    array = np.asarray(values, np.float64)
    return float(array.max(initial=0.0)) if is_finite(array) else math.nan


def count_text(values: npt.ArrayLike) -> str:
    """Return how many values are not finite, such as ``3 of 128 values are NaN or infinite``.

    Args:
        values: Of any shape and any numeric type.
    """
    import numpy as np

    array = np.asarray(values)
    bad = array.size - int(np.isfinite(array).sum())
    return f"{bad} of {array.size} values {'is' if bad == 1 else 'are'} NaN or infinite"


def json_text(
    record: Any,
    *,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
    ensure_ascii: bool = True,
) -> str:
    """Return JSON text; the arguments besides `record` are those of ``json.dumps``.

    JSON has no NaN and no infinity: ``json.dumps`` writes words that other readers refuse.

    Raises:
        NotFiniteError: A number is NaN or infinite; the message names its place.
    """
    try:
        return json.dumps(
            record,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
            ensure_ascii=ensure_ascii,
            allow_nan=False,
        )
    except ValueError as error:
        place = _bad_place(record, "")
        if place is None:
            raise
        raise NotFiniteError(
            f"{place} is NaN or infinite, which JSON cannot hold; nothing was written"
        ) from error


def _bad_place(record: Any, place: str) -> str | None:
    """Return where the first number that is not finite stands, as ``candidates[1].ttft.mean``."""
    if isinstance(record, float):
        return None if math.isfinite(record) else place or "the value"
    items: list[tuple[str, Any]] = []
    if isinstance(record, Mapping):
        items = [(f"{place}.{key}".lstrip("."), value) for key, value in record.items()]
    elif isinstance(record, list | tuple):
        items = [(f"{place}[{at}]", value) for at, value in enumerate(record)]
    found = (_bad_place(value, name) for name, value in items)
    return next((one for one in found if one is not None), None)
