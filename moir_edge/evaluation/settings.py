"""Checks that the settings of all commands share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from moir_edge.errors import DataError

__all__ = ["require_at_least"]


def require_at_least(settings: Any, least: int, names: Iterable[str]) -> None:
    """Refuse settings with a number that is too small; None is skipped, and every entry of a tuple counts.

    Args:
        settings: Holds the numbers as attributes.
        least: Smallest number that is taken.
        names: Of the attributes.

    Raises:
        DataError: A number is smaller; the message names the attribute.
    """
    for name in names:
        found = getattr(settings, name)
        values = found if isinstance(found, tuple) else () if found is None else (found,)
        if values and min(values) < least:
            expected = f"be at least {least}" if least else "not be negative"
            raise DataError(f"{name.replace('_', '-')} must {expected}, got {min(values)}")
