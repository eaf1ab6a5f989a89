"""Questions about one scene with a single short answer, sentences that describe a part of it, and its captions."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from moir_edge.demo.scenes import COLOURS, PLACES, Item, Scene
from moir_edge.demo.theme import Theme

__all__ = [
    "CAPTION_PROMPTS", "QUESTION_KINDS", "Question", "ask", "captions", "describe_item", "describe_part",
]  # fmt: skip

#: (kind, prompt, answer, the item the question is about)
Question = tuple[str, str, str, "Item | None"]
CAPTION_PROMPTS = (
    "Describe the image.",
    "Write a caption for the image.",
    "What does the image show?",
)
_COLOUR_NAMES = tuple(COLOURS)


def _unique(scene: Scene, key: Callable[[Item], object]) -> list[Item]:
    values = [key(item) for item in scene.items]
    return [
        item for item, value in zip(scene.items, values, strict=True) if values.count(value) == 1
    ]


def _about(
    scene: Scene,
    rng: random.Random,
    key: Callable[[Item], object],
    prompts: tuple[str, ...],
    answer: Callable[[Item], str],
) -> tuple[str, str, Item | None] | None:
    """Ask for one attribute of an item that another attribute picks out."""
    items = _unique(scene, key)
    if not items:
        return None
    item = rng.choice(items)
    prompt = rng.choice(prompts).format(
        digit=scene.theme.names[item.digit],
        colour=item.colour,
        place=PLACES[item.place],
        size=item.size,
        noun=scene.theme.noun,
    )
    return prompt, answer(item), item


def _digit_of_colour(scene: Scene, rng: random.Random) -> tuple[str, str, Item | None] | None:
    prompts = ("Which {noun} is {colour}?", "What is the {colour} {noun}?")
    return _about(scene, rng, lambda i: i.colour, prompts, lambda i: scene.theme.names[i.digit])


def _colour_of_digit(scene: Scene, rng: random.Random) -> tuple[str, str, Item | None] | None:
    prompts = ("What colour is the {digit}?", "Which colour does the {digit} have?")
    return _about(scene, rng, lambda i: i.digit, prompts, lambda i: i.colour)


def _place_of_colour(scene: Scene, rng: random.Random) -> tuple[str, str, Item | None] | None:
    prompts = ("Where is the {colour} {noun}?", "At which place is the {colour} {noun}?")
    return _about(scene, rng, lambda i: i.colour, prompts, lambda i: PLACES[i.place])


def _place_of_digit(scene: Scene, rng: random.Random) -> tuple[str, str, Item | None] | None:
    prompts = ("Where is the {digit}?", "At which place is the {digit}?")
    return _about(scene, rng, lambda i: i.digit, prompts, lambda i: PLACES[i.place])


def _digit_at_place(scene: Scene, rng: random.Random) -> tuple[str, str, Item | None] | None:
    prompts = ("Which {noun} is at the {place}?", "What is the {noun} at the {place}?")
    return _about(scene, rng, lambda i: i.place, prompts, lambda i: scene.theme.names[i.digit])


def _colour_at_place(scene: Scene, rng: random.Random) -> tuple[str, str, Item | None] | None:
    prompts = ("What colour is the {noun} at the {place}?", "Which colour is at the {place}?")
    return _about(scene, rng, lambda i: i.place, prompts, lambda i: i.colour)


def _size_of_colour(scene: Scene, rng: random.Random) -> tuple[str, str, Item | None] | None:
    prompts = ("Is the {colour} {noun} small or large?", "What size is the {colour} {noun}?")
    return _about(scene, rng, lambda i: i.colour, prompts, lambda i: i.size)


def _digit_of_size(scene: Scene, rng: random.Random) -> tuple[str, str, Item | None] | None:
    prompts = ("Which is the only {size} {noun}?",)
    return _about(scene, rng, lambda i: i.size, prompts, lambda i: scene.theme.names[i.digit])


def _count(scene: Scene, rng: random.Random) -> tuple[str, str, Item | None] | None:
    noun = scene.theme.noun
    prompt = rng.choice((f"How many {noun}s are there?", f"How many {noun}s does the image show?"))
    return prompt, str(len(scene.items)), None


def _count_colour(scene: Scene, rng: random.Random) -> tuple[str, str, Item | None] | None:
    colour = rng.choice(scene.items).colour if rng.random() < 0.75 else rng.choice(_COLOUR_NAMES)
    number = sum(item.colour == colour for item in scene.items)
    noun = scene.theme.noun
    prompts = (f"How many {colour} {noun}s are there?", f"How many {noun}s are {colour}?")
    return rng.choice(prompts), str(number), None


def _exists(scene: Scene, rng: random.Random) -> tuple[str, str, Item | None] | None:
    """Yes or no, balanced; half of the wrong ones differ from a real item in one attribute only."""
    with_colour = rng.random() < 0.6
    present = {(i.digit, i.colour if with_colour else None) for i in scene.items}
    item = rng.choice(scene.items)
    digit, colour = item.digit, item.colour if with_colour else None
    answer = rng.random() < 0.5
    while not answer and (digit, colour) in present:
        if with_colour and rng.random() < 0.5:
            colour = rng.choice(_COLOUR_NAMES)
        else:
            digit = rng.randrange(len(scene.theme.names))
    what = scene.theme.named(digit, colour)
    prompts = (f"Is there {what}?", f"Does the image show {what}?")
    return rng.choice(prompts), "yes" if answer else "no", item if answer else None


QUESTION_KINDS: dict[str, Callable[[Scene, random.Random], tuple[str, str, Item | None] | None]] = {
    "digit-of-colour": _digit_of_colour,
    "colour-of-digit": _colour_of_digit,
    "place-of-colour": _place_of_colour,
    "place-of-digit": _place_of_digit,
    "digit-at-place": _digit_at_place,
    "colour-at-place": _colour_at_place,
    "size-of-colour": _size_of_colour,
    "digit-of-size": _digit_of_size,
    "count": _count,
    "count-colour": _count_colour,
    "exists": _exists,
}
_KIND_NAMES = tuple(QUESTION_KINDS)


def ask(scene: Scene, rng: random.Random, weights: Mapping[str, float] | None = None) -> Question:
    """Draw a question that has exactly one right answer in this scene.

    Args:
        scene: The scene.
        rng: Source of randomness.
        weights: How often each kind is tried; None tries all alike.
    """
    while True:
        if weights is None:
            kind = rng.choice(_KIND_NAMES)
        else:
            kind = rng.choices(tuple(weights), tuple(weights.values()))[0]
        question = QUESTION_KINDS[kind](scene, rng)
        if question is not None:
            prompt, answer, item = question
            return kind, prompt, answer, item


def describe_item(theme: Theme, item: Item, rng: random.Random) -> str:
    """Name two or three attributes of one item, as a noun phrase without a verb."""
    place = PLACES[item.place]
    style = rng.randrange(4)
    if style == 0:
        return theme.named(item.digit, item.colour)
    if style == 1:
        return f"a {item.colour} {theme.noun} at the {place}"
    if style == 2:
        return f"{theme.named(item.digit)} at the {place}"
    return f"{theme.named(item.digit, item.colour)} at the {place}"


def describe_part(scene: Scene, rng: random.Random, focus: Item | None = None) -> str:
    """Return one true sentence about a part of the scene.

    Args:
        scene: The scene.
        rng: Source of randomness.
        focus: The item that a question is about; two thirds of the sentences then speak about it.
    """
    if rng.random() < (0.1 if focus is not None else 0.35):
        number = len(scene.items)
        return f"There {'is' if number == 1 else 'are'} {scene.theme.counted(number)}."
    item = focus if focus is not None and rng.random() < 0.7 else rng.choice(scene.items)
    if rng.random() < 0.15:
        return f"There is a {item.size} {item.colour} {scene.theme.noun}."
    others = [other for other in scene.items if other is not item]
    more = bool(others) and rng.random() < 0.3
    first = describe_item(scene.theme, item, rng)
    if more:
        other = describe_item(scene.theme, rng.choice(others), rng)
        return f"There is {first} and {other}."
    return f"There is {first}."


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def captions(scene: Scene) -> tuple[str, ...]:
    """Return five captions that name every picture in reading order; the first is the canonical one."""
    named = scene.theme.named
    places = [PLACES[item.place] for item in scene.items]
    whats = [named(item.digit, item.colour) for item in scene.items]
    at = _join([f"{what} at the {place}" for what, place in zip(whats, places, strict=True)])
    colour_last = [
        f"{named(item.digit)} in {item.colour} at the {place}"
        for item, place in zip(scene.items, places, strict=True)
    ]
    place_first = [f"at the {place} {what}" for what, place in zip(whats, places, strict=True)]
    sized = [
        f"a {item.size} {item.colour} {scene.theme.names[item.digit]} at the {place}"
        for item, place in zip(scene.items, places, strict=True)
    ]
    first = _join(place_first)
    return (
        f"{at[0].upper()}{at[1:]}.",
        f"There is {at}.",
        f"The image shows {_join(colour_last)}.",
        f"{first[0].upper()}{first[1:]}.",
        f"A dark picture with {_join(sized)}.",
    )
