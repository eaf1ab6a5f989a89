"""An independent reading of the demo language: sentences are parsed and checked against the scene description."""

from __future__ import annotations

import re
from collections.abc import Sequence

from moir_edge.demo.scenes import COLOURS, PLACES, Item, Scene

_PLACE = "|".join(sorted(PLACES, key=len, reverse=True))
_COLOUR = "|".join(COLOURS)
_THING = re.compile(
    rf"an? (?:(?P<size>small|large) )?(?:(?P<colour>{_COLOUR}) )?(?P<digit>\d|digit)"
    rf"(?: at the (?P<place>{_PLACE}))?"
)


def _matches(
    item: Item, size: str | None, colour: str | None, digit: str, place: str | None
) -> bool:
    return (
        (size is None or item.size == size)
        and (colour is None or item.colour == colour)
        and (digit == "digit" or item.digit == int(digit))
        and (place is None or PLACES[item.place] == place)
    )


def _has(scene: Scene, phrase: str) -> bool:
    found = _THING.fullmatch(phrase)
    assert found is not None, phrase
    return any(_matches(item, **found.groupdict()) for item in scene.items)


def answer_of(prompt: str, scene: Scene) -> str:
    """Answer a question of the demo language."""
    items = scene.items
    if prompt.startswith("How many"):
        colours = re.findall(_COLOUR, prompt)
        return str(sum(not colours or item.colour == colours[0] for item in items))
    if found := re.fullmatch(r"(?:Is there|Does the image show) (.*)\?", prompt):
        return "yes" if _has(scene, found[1]) else "no"
    if found := re.fullmatch(r"Which is the only (small|large) digit\?", prompt):
        (item,) = [item for item in items if item.size == found[1]]
        return str(item.digit)
    if found := re.search(rf"at the ({_PLACE})\?", prompt):
        (item,) = [item for item in items if PLACES[item.place] == found[1]]
        return item.colour if "colour" in prompt else str(item.digit)
    if found := re.search(r"the (\d)", prompt):
        (item,) = [item for item in items if item.digit == int(found[1])]
        return item.colour if "colour" in prompt else PLACES[item.place]
    found = re.search(_COLOUR, prompt)
    assert found is not None, prompt
    (item,) = [item for item in items if item.colour == found[0]]
    if "size" in prompt or "small or large" in prompt:
        return item.size
    return PLACES[item.place] if "here" in prompt or "place" in prompt else str(item.digit)


def _side(name: str, scenes: Sequence[Scene]) -> Scene:
    return scenes[("left", "right").index(name)]


def _holds_of_one(sentence: str, scene: Scene) -> bool:
    if found := re.fullmatch(r"[Tt]here (?:is|are) (\d) digits?\.", sentence):
        return len(scene.items) == int(found[1])
    found = re.fullmatch(r"[Tt]here is (.*)\.", sentence)
    assert found is not None, sentence
    return all(_has(scene, part) for part in found[1].split(" and "))


def holds(sentence: str, scenes: Sequence[Scene]) -> bool:
    """Say whether a context sentence or a statement is true of the scenes."""
    if len(scenes) == 1:
        return _holds_of_one(sentence, scenes[0])
    left, right = scenes
    if found := re.fullmatch(r"In the (left|right) image (.*)", sentence):
        return _holds_of_one(found[2], _side(found[1], scenes))
    if found := re.fullmatch(r"The (left|right) image contains (\d) digits?\.", sentence):
        return len(_side(found[1], scenes).items) == int(found[2])
    if found := re.fullmatch(r"The (left|right) image contains (.*)\.", sentence):
        return _has(_side(found[1], scenes), found[2])
    if found := re.fullmatch(
        rf"The digit at the ({_PLACE}) of the (left|right) image is (.*)\.", sentence
    ):
        return _has(_side(found[2], scenes), f"a {found[3]} digit at the {found[1]}")
    if found := re.fullmatch(r"(Both|Neither|Exactly one) images? contains? (.*)\.", sentence):
        number = _has(left, found[2]) + _has(right, found[2])
        return number == {"Both": 2, "Neither": 0, "Exactly one": 1}[found[1]]
    if found := re.fullmatch(
        r"The (left|right) image has (more|fewer) digits than the (left|right) image\.", sentence
    ):
        one, other = (len(_side(found[index], scenes).items) for index in (1, 3))
        return one > other if found[2] == "more" else one < other
    found = re.fullmatch(r"The two images have (.*) of digits\.", sentence)
    assert found is not None, sentence
    return (found[1] == "the same number") == (len(left.items) == len(right.items))
