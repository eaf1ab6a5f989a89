"""Question-answer segments for training: those of the data set, and bridges that make its hard kinds learnable."""

from __future__ import annotations

import random
from dataclasses import dataclass

from moir_edge.data.effects import drop_words
from moir_edge.demo.data import CONTEXT_PROBABILITY
from moir_edge.demo.questions import (
    CAPTION_PROMPTS,
    QUESTION_KINDS,
    ask,
    captions,
    describe_part,
)
from moir_edge.demo.scenes import COLOURS, Scene, related_scene, sample_scene
from moir_edge.demo.statements import Pair, describe_side, side_has, state
from moir_edge.demo.theme import DIGITS, Theme

__all__ = [
    "Segment",
    "drop_words",
    "language_samples",
    "pair_bridges",
    "pair_segments",
    "single_bridges",
    "single_segments",
]

_VQA, _STATEMENT, _CAPTION = 0, 1, 2
_SIDES = ("left", "right")
#: Kinds that take longest to learn are asked more often in training.
_KIND_WEIGHTS = {
    **dict.fromkeys(QUESTION_KINDS, 1.0),
    "exists": 3.0,
    "colour-of-digit": 4.0,
    "place-of-digit": 4.0,
    "count-colour": 2.0,
}


@dataclass(frozen=True)
class Segment:
    """One user text and its answer; `task` indexes `TASKS`."""

    task: int
    text: str
    answer: str


def _with_context(prompt: str, context: str, rng: random.Random, drop_share: float) -> str:
    """Put the context in front at the data set's rate; a share of the contexts loses words."""
    if rng.random() >= CONTEXT_PROBABILITY:
        return prompt
    if rng.random() < drop_share:
        context = drop_words(context, rng.uniform(0.1, 0.7), rng)
    return f"{context} {prompt}"


def single_segments(
    scene: Scene, rng: random.Random, questions: int, drop_share: float
) -> list[Segment]:
    """Return questions about one scene, and its caption."""
    result = []
    for _ in range(questions):
        _, prompt, answer, item = ask(scene, rng, _KIND_WEIGHTS)
        text = _with_context(prompt, describe_part(scene, rng, item), rng, drop_share)
        result.append(Segment(_VQA, text, answer))
    prompt = rng.choice(CAPTION_PROMPTS)
    text = _with_context(prompt, describe_part(scene, rng), rng, drop_share)
    return [*result, Segment(_CAPTION, text, captions(scene)[0])]


def pair_segments(
    pair: Pair, rng: random.Random, statements: int, drop_share: float
) -> list[Segment]:
    """Return statements about a pair of scenes."""
    result = []
    for _ in range(statements):
        truth = rng.random() < 0.5
        _, sentence = state(pair, truth, rng)
        text = _with_context(sentence, describe_side(pair, rng), rng, drop_share)
        result.append(Segment(_STATEMENT, text, "true" if truth else "false"))
    return result


def single_bridges(scene: Scene, rng: random.Random) -> list[Segment]:
    """Return two statements about one image, and two lookups that must notice when nothing matches."""
    result = []
    for _ in range(2):
        truth = rng.random() < 0.5
        sentence = side_has((scene, scene), truth, rng)
        sentence = sentence.replace("left ", "").replace("right ", "")
        result.append(Segment(_STATEMENT, sentence, "true" if truth else "false"))
    return [*result, _colour_or_absent(scene, rng), _colour_or_absent(scene, rng)]


def pair_bridges(pair: Pair, rng: random.Random) -> list[Segment]:
    """Return questions about a pair whose answers say more than the one bit of a statement."""
    result = [
        _compare_counts(pair, rng) if rng.random() < 0.4 else _which_image(pair, rng)
        for _ in range(4)
    ]
    if rng.random() < 0.2:
        side = rng.randrange(2)
        prompt = f"Describe the {_SIDES[side]} image."
        result.append(Segment(_CAPTION, prompt, captions(pair[side])[0]))
    return result


def _colour_or_absent(scene: Scene, rng: random.Random) -> Segment:
    digits = [item.digit for item in scene.items]
    single = [item for item in scene.items if digits.count(item.digit) == 1]
    absent = [digit for digit in range(len(scene.theme.names)) if digit not in digits]
    if single and rng.random() < 0.55:
        item = rng.choice(single)
        digit, answer = item.digit, item.colour
    else:
        digit, answer = rng.choice(absent), "no"
    return Segment(_VQA, f"Is there {scene.theme.named(digit)}? Which colour?", answer)


def _compare_counts(pair: Pair, rng: random.Random) -> Segment:
    """Ask for the number of digits on one side, or which side has more."""
    left, right = (len(scene.items) for scene in pair)
    noun = pair[0].theme.noun
    if rng.random() < 0.5:
        side = rng.randrange(2)
        prompt = f"How many {noun}s does the {_SIDES[side]} image have?"
        return Segment(_VQA, prompt, str((left, right)[side]))
    answer = "same" if left == right else "left" if left > right else "right"
    return Segment(_VQA, f"Which image has more {noun}s?", answer)


def _which_image(pair: Pair, rng: random.Random) -> Segment:
    """Ask which image shows a digit, a colour or a digit in a colour."""
    theme = pair[0].theme
    item = rng.choice([item for scene in pair for item in scene.items])
    digit: int | None = item.digit
    colour: str | None = item.colour
    if rng.random() < 0.25:
        digit, colour = rng.randrange(len(theme.names)), rng.choice(tuple(COLOURS))
    form = rng.randrange(3)
    digit, colour = (digit if form != 1 else None), (colour if form != 0 else None)
    left, right = (
        any(digit in (None, i.digit) and colour in (None, i.colour) for i in scene.items)
        for scene in pair
    )
    what = f"a {colour} {theme.noun}" if digit is None else theme.named(digit, colour)
    answer = {(1, 0): "left", (0, 1): "right", (1, 1): "both", (0, 0): "no"}[left, right]
    return Segment(_VQA, f"Which image contains {what}?", answer)


def language_samples(count: int, theme: Theme = DIGITS) -> list[str]:
    """Return sentences that cover the demo language, for training the tokenizer."""
    rng = random.Random("language")
    texts = ["User:", "\nAssistant:"]
    for _ in range(count):
        scene = sample_scene(rng, "train", theme=theme)
        pair = (scene, related_scene(rng, "train", scene))
        segments = single_segments(scene, rng, 4, 0.25) + pair_segments(pair, rng, 4, 0.25)
        for segment in segments + single_bridges(scene, rng) + pair_bridges(pair, rng):
            texts += [segment.text, f" {segment.text}", f" {segment.answer}"]
        texts += captions(scene)
    return texts
