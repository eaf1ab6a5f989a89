"""The kinds of degradation by name: what each changes, the quantity that says how much, and its five levels."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from PIL import Image

from moir_edge.errors import UnsupportedError, closest

if TYPE_CHECKING:
    from moir_edge.data.rows import Row

__all__ = [
    "DegradationKind",
    "ImageEffect",
    "Modality",
    "Quantity",
    "RowEffect",
    "TextEffect",
    "find_kind",
    "image_degradation",
    "known_kinds",
    "row_degradation",
    "text_degradation",
]

Modality = Literal["image", "text"]
ImageEffect: TypeAlias = "Callable[[Image.Image, float, np.random.Generator], Image.Image]"
"""(RGB image, strength, generator) -> RGB image of the same size."""
TextEffect: TypeAlias = "Callable[[str, float, random.Random], str]"
"""(one text field, strength, generator) -> what is left of it."""

RowEffect: TypeAlias = "Callable[[Row], Row]"
"""row -> the row without the part that is gone."""

_KINDS: dict[str, DegradationKind] = {}


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Quantity in which the strength of a degradation is measured.

    Attributes:
        name: Such as ``"sigma"``.
        unit: Such as ``"px"``; empty for a plain number.
        levels: Strength of the levels 1 to 5, for an image whose shorter side is 224 px where `scales` is set.
        low: Least strength that can be asked for.
        high: Largest strength that can be asked for.
        scales: Whether a level is multiplied by (shorter image side) / 224, as lengths are.
        whole: Whether only whole numbers make sense.
    """

    name: str
    unit: str = ""
    levels: tuple[float, float, float, float, float]
    low: float
    high: float
    scales: bool = False
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class DegradationKind:
    """One kind of degradation; exactly one of the three effects is set.

    Attributes:
        name: As settings and reports call it.
        quantity: What its strength is; None for a kind that is all or nothing.
        image_effect: Changes an image.
        text_effect: Changes the context or the prompt.
        row_effect: Takes a part of the row away.
        modality: The modality that loses information.
    """

    name: str
    quantity: Quantity | None
    image_effect: ImageEffect | None = None
    text_effect: TextEffect | None = None
    row_effect: RowEffect | None = None
    modality: Modality


def image_degradation(
    name: str, quantity: Quantity | None = None
) -> Callable[[ImageEffect], ImageEffect]:
    """Register a function as the effect of a new kind on images.

    Args:
        name: Name of the kind, unused so far.
        quantity: What its strength is; None passes 0.

    Raises:
        ValueError: The name is taken.
    """

    def register(effect: ImageEffect) -> ImageEffect:
        _add(DegradationKind(name=name, quantity=quantity, image_effect=effect, modality="image"))
        return effect

    return register


def text_degradation(
    name: str, quantity: Quantity | None = None
) -> Callable[[TextEffect], TextEffect]:
    """Register a function as the effect of a new kind on text; see `image_degradation`."""

    def register(effect: TextEffect) -> TextEffect:
        _add(DegradationKind(name=name, quantity=quantity, text_effect=effect, modality="text"))
        return effect

    return register


def row_degradation(name: str, modality: Modality) -> Callable[[RowEffect], RowEffect]:
    """Register a function that takes a part of a row away, all or nothing, as a new kind.

    Args:
        name: Name of the kind, unused so far.
        modality: The modality that is gone.

    Raises:
        ValueError: The name is taken.
    """

    def register(effect: RowEffect) -> RowEffect:
        _add(DegradationKind(name=name, quantity=None, row_effect=effect, modality=modality))
        return effect

    return register


def _add(kind: DegradationKind) -> None:
    if kind.name in _KINDS:
        raise ValueError(f"degradation {kind.name!r} is registered twice")
    _KINDS[kind.name] = kind


def known_kinds() -> tuple[DegradationKind, ...]:
    """Return all kinds in the order of their registration."""
    return tuple(_KINDS.values())


def find_kind(name: str) -> DegradationKind:
    """Return a kind by name.

    Raises:
        UnsupportedError: There is none of that name; the message lists those there are.
    """
    kinds = {kind.name: kind for kind in known_kinds()}
    if name not in kinds:
        raise UnsupportedError(f"unknown degradation {name!r}: {closest(name, kinds)}")
    return kinds[name]
