"""Checks that the settings of all commands share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, get_args

from moir_edge.errors import DataError, UnsupportedError, closest

__all__ = ["check_providers", "require_at_least"]


def check_providers(names: Sequence[str]) -> None:
    """Refuse a provider that the runtime does not have, or that is named twice.

    Raises:
        UnsupportedError: There is no such provider.
        DataError: One is named twice.
    """
    from moir_edge.runtime.providers import Provider

    known = get_args(Provider)
    for name in names:
        if name not in known:
            raise UnsupportedError(f"unknown provider {name!r}; {closest(name, known)}")
        if names.count(name) > 1:
            raise DataError(f"provider {name} is given twice; name each one once")


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
