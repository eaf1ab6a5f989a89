"""Sentences about a pair of scenes that are true or false, balanced per kind, in the manner of NLVR2."""

from __future__ import annotations

import random
from collections.abc import Callable

from moir_edge.demo.questions import describe_part
from moir_edge.demo.scenes import COLOURS, PLACES, Scene

__all__ = ["STATEMENT_KINDS", "Pair", "describe_side", "side_has", "state"]

#: The left and the right scene.
Pair = tuple[Scene, Scene]
_SIDES = ("left", "right")
_COLOUR_NAMES = tuple(COLOURS)


def _digits(scene: Scene) -> set[int]:
    return {item.digit for item in scene.items}


def _colours(scene: Scene) -> set[str]:
    return {item.colour for item in scene.items}


def _things(scene: Scene) -> set[tuple[int, str]]:
    return {(item.digit, item.colour) for item in scene.items}


def _near_miss(pair: Pair, side: int, rng: random.Random) -> tuple[int, str]:
    """Draw a (digit, colour) that is absent on one side, often present on the other or wrong in one attribute."""
    here = _things(pair[side])
    while True:
        source = pair[1 - side] if rng.random() < 0.4 else pair[side]
        digit, colour = rng.choice(sorted(_things(source)))
        if rng.random() < 0.35:
            digit = rng.randrange(len(pair[0].theme.names))
        elif rng.random() < 0.35:
            colour = rng.choice(_COLOUR_NAMES)
        if (digit, colour) not in here:
            return digit, colour


def side_has(pair: Pair, truth: bool, rng: random.Random) -> str:
    """Say that one image contains a digit in a colour."""
    side = rng.randrange(2)
    digit, colour = (
        rng.choice(sorted(_things(pair[side]))) if truth else _near_miss(pair, side, rng)
    )
    return f"The {_SIDES[side]} image contains {pair[0].theme.named(digit, colour)}."


def _side_digit(pair: Pair, truth: bool, rng: random.Random) -> str | None:
    side = rng.randrange(2)
    here, there = _digits(pair[side]), _digits(pair[1 - side])
    pool = (
        here
        if truth
        else (there - here if rng.random() < 0.5 else set(range(len(pair[0].theme.names))) - here)
    )
    if not pool:
        return None
    return f"The {_SIDES[side]} image contains {pair[0].theme.named(rng.choice(sorted(pool)))}."


def _side_count(pair: Pair, truth: bool, rng: random.Random) -> str | None:
    side = rng.randrange(2)
    number = len(pair[side].items)
    if not truth:
        number = rng.choice([value for value in range(1, 5) if value != number])
    return f"The {_SIDES[side]} image contains {pair[0].theme.counted(number)}."


def _side_place(pair: Pair, truth: bool, rng: random.Random) -> str | None:
    side = rng.randrange(2)
    item = rng.choice(pair[side].items)
    colour = item.colour
    if not truth:
        colour = rng.choice([name for name in _COLOUR_NAMES if name != colour])
    return f"The {pair[0].theme.noun} at the {PLACES[item.place]} of the {_SIDES[side]} image is {colour}."


def _both_digit(pair: Pair, truth: bool, rng: random.Random) -> str | None:
    left, right = _digits(pair[0]), _digits(pair[1])
    pool = left & right if truth else left ^ right
    if not pool or not left & right:
        return None
    return f"Both images contain {pair[0].theme.named(rng.choice(sorted(pool)))}."


def _both_colour(pair: Pair, truth: bool, rng: random.Random) -> str | None:
    left, right = _colours(pair[0]), _colours(pair[1])
    pool = left & right if truth else left ^ right
    if not pool or not left & right:
        return None
    return f"Both images contain a {rng.choice(sorted(pool))} {pair[0].theme.noun}."


def _one_digit(pair: Pair, truth: bool, rng: random.Random) -> str | None:
    left, right = _digits(pair[0]), _digits(pair[1])
    shared, single = left & right, left ^ right
    if not shared or not single:
        return None
    pool = single if truth else shared
    return f"Exactly one image contains {pair[0].theme.named(rng.choice(sorted(pool)))}."


def _neither_colour(pair: Pair, truth: bool, rng: random.Random) -> str | None:
    seen = _colours(pair[0]) | _colours(pair[1])
    pool = set(COLOURS) - seen if truth else seen
    if not set(COLOURS) - seen:
        return None
    return f"Neither image contains a {rng.choice(sorted(pool))} {pair[0].theme.noun}."


def _more(pair: Pair, truth: bool, rng: random.Random) -> str | None:
    left, right = len(pair[0].items), len(pair[1].items)
    if left == right:
        return None
    larger = 0 if left > right else 1
    word, subject = rng.choice((("more", larger), ("fewer", 1 - larger)))
    subject = subject if truth else 1 - subject
    what = f"{word} {pair[0].theme.noun}s"
    return f"The {_SIDES[subject]} image has {what} than the {_SIDES[1 - subject]} image."


def _same_count(pair: Pair, truth: bool, rng: random.Random) -> str | None:
    same = len(pair[0].items) == len(pair[1].items)
    word = "the same number" if same == truth else "different numbers"
    return f"The two images have {word} of {pair[0].theme.noun}s."


STATEMENT_KINDS: dict[str, Callable[[Pair, bool, random.Random], str | None]] = {
    "side-has": side_has,
    "side-digit": _side_digit,
    "side-count": _side_count,
    "side-place": _side_place,
    "both-digit": _both_digit,
    "both-colour": _both_colour,
    "one-digit": _one_digit,
    "neither-colour": _neither_colour,
    "more": _more,
    "same-count": _same_count,
}
_KIND_NAMES = tuple(STATEMENT_KINDS)


def state(pair: Pair, truth: bool, rng: random.Random) -> tuple[str, str]:
    """Draw a statement of the wanted truth; returns its kind and the sentence."""
    while True:
        kind = rng.choice(_KIND_NAMES)
        sentence = STATEMENT_KINDS[kind](pair, truth, rng)
        if sentence is not None:
            return kind, sentence


def describe_side(pair: Pair, rng: random.Random) -> str:
    """Return one true sentence about a part of one image of the pair."""
    side = rng.randrange(2)
    sentence = describe_part(pair[side], rng)
    if sentence.startswith("There "):
        _, verb, rest = sentence.split(" ", 2)
        sentence = f"In the {_SIDES[side]} image there {verb} {rest}"
    return sentence
