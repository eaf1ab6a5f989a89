"""A degradation that was asked for: a kind with its strength, written as `blur`, `blur@2` or `blur=3.4px`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moir_edge.data import effects  # noqa: F401  (importing registers the kinds of this package)
from moir_edge.data.kinds import DegradationKind, Quantity, find_kind
from moir_edge.errors import DataError

__all__ = ["CLEAN", "DEFAULTS", "Degradation", "parse_degradation"]

CLEAN = "clean"
"""Label of the condition in which nothing is degraded."""

DEFAULTS = ("blur", "noise", "jpeg", "word-dropout", "image-blank", "text-blank")
"""What is measured where nothing else is asked for, at the middle level: all kinds but `mask-region`."""

DEFAULT_LEVEL = 3
BASE_SIDE_PX = 224

_SPEC = re.compile(r"(?P<name>[^@=]+)(?:@(?P<level>[^@=]*)|=(?P<value>[^@=]*))?")
_NUMBER = re.compile(r"(?P<number>[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(?P<unit>[a-z%]*)")


@dataclass(frozen=True)
class Degradation:
    """A kind with its strength.

    Attributes:
        kind: The kind.
        value: Strength in the unit of the kind, the same for every row; None follows `level`.
        level: Level 1 to 5 of the kind's table; None where `value` is given or the kind has no strength.
    """

    kind: DegradationKind
    value: float | None = None
    level: int | None = None

    @property
    def label(self) -> str:
        """The one spelling of it, which `parse_degradation` reads back."""
        if self.kind.quantity is None:
            return self.kind.name
        if self.value is None:
            return f"{self.kind.name}@{self.level}"
        return f"{self.kind.name}={self.value:g}{self.kind.quantity.unit}"

    def strength(self, shorter_side_px: int = BASE_SIDE_PX) -> float:
        """Return the strength for an image; a text has none of its own, its size is ignored.

        Args:
            shorter_side_px: Shorter side of the image; a level of a length is scaled by it / 224.
        """
        quantity = self.kind.quantity
        if quantity is None:
            return 0.0
        if self.value is not None:
            return self.value
        factor = shorter_side_px / BASE_SIDE_PX if quantity.scales else 1.0
        return quantity.levels[(self.level or DEFAULT_LEVEL) - 1] * factor


def parse_degradation(text: str) -> Degradation:
    """Read ``NAME`` (level 3), ``NAME@LEVEL`` (1 to 5) or ``NAME=VALUE[UNIT]``.

    Args:
        text: Such as ``"blur=3.4px"``, ``"word-dropout=0.3"`` or ``"image-blank"``.

    Raises:
        UnsupportedError: There is no such kind.
        DataError: The level or the value cannot be used.
    """
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise DataError(f"degradation {text!r}: write NAME, NAME@LEVEL or NAME=VALUE")
    kind = find_kind(match["name"].strip())
    if kind.quantity is None:
        if match["level"] is not None or match["value"] is not None:
            raise DataError(
                f"degradation {text!r}: {kind.name} is all or nothing; write {kind.name}"
            )
        return Degradation(kind)
    if match["value"] is not None:
        return Degradation(kind, value=_value(text, match["value"], kind.quantity))
    level = match["level"]
    return Degradation(kind, level=DEFAULT_LEVEL if level is None else _level(text, level))


def _level(text: str, level: str) -> int:
    if level.strip() not in ("1", "2", "3", "4", "5"):
        raise DataError(
            f"degradation {text!r}: got level {level!r}, expected 1 to 5; "
            "give a strength of your own with NAME=VALUE"
        )
    return int(level)


def _value(text: str, value: str, quantity: Quantity) -> float:
    match = _NUMBER.fullmatch(value.strip())
    what = f"{quantity.name} from {quantity.low:g} to {quantity.high:g}"
    unit = f" in {quantity.unit}" if quantity.unit else ""
    if match is None or match["unit"] not in ("", quantity.unit):
        raise DataError(f"degradation {text!r}: got {value!r}, expected {what}{unit}")
    number = float(match["number"])
    if not quantity.low <= number <= quantity.high or (quantity.whole and number % 1):
        whole = ", a whole number" if quantity.whole else ""
        raise DataError(f"degradation {text!r}: {number:g} is out of range; give {what}{whole}")
    return number
