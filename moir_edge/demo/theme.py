"""Themes, which say what the pictures of a scene are: the digits of the demo, or ten other kinds with names of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moir_edge.demo.glyphs import Glyphs, load_glyphs, split_indices

__all__ = ["DIGITS", "Theme"]


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Kinds of pictures that scenes are made of, and their words; `Item.digit` numbers the kinds.

    Attributes:
        noun: What one picture is called, such as `digit`.
        names: Name of every kind, one word each.
        load: Returns the pictures; their labels number `names`.
        split: Returns the pictures of a split: for each kind, the indices into what `load` returns.
    """

    noun: str
    names: tuple[str, ...]
    load: Callable[[], Glyphs]
    split: Callable[[str], tuple[tuple[int, ...], ...]]

    def named(self, kind: int, colour: str | None = None) -> str:
        """Name a picture with its article: `a red 8`, `an 8`."""
        name = self.names[kind]
        if colour is not None:
            return f"a {colour} {name}"
        return f"an {name}" if name[0] in "8aeiou" else f"a {name}"

    def counted(self, number: int) -> str:
        """Name a number of pictures: `1 digit`, `3 digits`."""
        return f"{number} {self.noun}{'' if number == 1 else 's'}"


DIGITS = Theme(noun="digit", names=tuple("0123456789"), load=load_glyphs, split=split_indices)
"""The handwritten digits of the demo."""
