"""Names of the balance methods, without torch."""

from __future__ import annotations

from moir_edge.errors import UnsupportedError, closest

__all__ = ["BALANCE_METHODS", "check_method"]

BALANCE_METHODS: tuple[str, ...] = (
    "mwam-gradient",
    "mwam-loss",
    "mwam-hybrid",
    "ogm-ge",
    "opm",
    "mmpareto",
    "functional-entropy",
    "shapley-alternation",
)
"""Values of `TuneSettings.balance_method`."""


def check_method(name: str) -> None:
    """Refuse an unknown method.

    Raises:
        UnsupportedError: It is none of `BALANCE_METHODS`.
    """
    if name not in BALANCE_METHODS:
        raise UnsupportedError(f"unknown balance method {name!r}: {closest(name, BALANCE_METHODS)}")
