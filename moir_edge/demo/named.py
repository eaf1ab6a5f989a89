"""Rows in which one modality holds what the other has lost: an object that the text names and the picture shows.

`named_rows` makes them of the demo's digits, or of the pictures of another theme. `lose` takes content away and knows
nothing of digits.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from moir_edge.arguments import given_path, integer, number, text
from moir_edge.checked import a, a_count, checked, lazily, required
from moir_edge.data.effects import gaussian_blur
from moir_edge.data.rows import Row
from moir_edge.demo.data import DemoRow
from moir_edge.demo.questions import ask
from moir_edge.demo.scenes import PLACES, Item, render, sample_scene
from moir_edge.demo.theme import DIGITS, Theme
from moir_edge.errors import DataError, closest

__all__ = ["LOSSES", "NamedObject", "NamedRow", "as_rows", "lose", "lost_rows", "named_rows"]

LOSSES = ("mask", "blur", "words")
"""What can be lost: the object's region, masked or blurred, which the context still names; or the context's words about
it, which the picture still shows."""

_ABOUT = dict.fromkeys(
    (
        "digit-of-colour", "colour-of-digit", "place-of-colour", "place-of-digit", "digit-at-place", "colour-at-place",
    ),
    1.0,
)  # fmt: skip
_COUNTS = (2, 3, 4)
_TRAINED_STRENGTHS = (0.5, 0.75, 1.0)
_LARGEST_SIGMA = 0.25
_MARKS = ".,;:!?"


@dataclass(frozen=True, kw_only=True)
class NamedObject:
    """An object that a row's text names.

    Attributes:
        image: Which image of the row shows it, from 0.
        box: (left, top, right, bottom) around it, as fractions of the image.
        words: The words that name it, in lower case and without marks; no other object of the row is meant by them.
    """

    image: int = 0
    box: tuple[float, float, float, float]
    words: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class NamedRow:
    """A question about an object that the context describes in full.

    Attributes:
        id: Unique name.
        images: RGB images.
        context: Names the object, the answer included; None where every word of it was lost.
        prompt: Asks for one attribute of the object and names another.
        answers: Accepted answers.
        named: The object.
    """

    id: str
    images: tuple[Image.Image, ...]
    context: str | None
    prompt: str
    answers: tuple[str, ...]
    named: NamedObject


@checked(split=required(text), count=a_count, seed=required(integer), theme=a(Theme))
def named_rows(split: str, *, count: int, seed: int = 0, theme: Theme = DIGITS) -> list[NamedRow]:
    """Generate rows of two to four pictures; row i depends on (split, seed, i, theme) only.

    Args:
        split: `train`, `val` or `test`; they share no picture.
        count: Number of rows.
        seed: Another seed gives other rows.
        theme: What the pictures are.

    Raises:
        DataError: The split is unknown.
        EnvironmentProblem: scikit-learn is not installed.
    """
    drafts = []
    for index in range(count):
        name = f"named-{split}-{seed}-{index:06d}"
        rng = random.Random(name)
        scene = sample_scene(rng, split, count=rng.choice(_COUNTS), theme=theme)
        item: Item | None = None
        while item is None:
            _, prompt, answer, item = ask(scene, rng, _ABOUT)
        drafts.append((name, scene, item, prompt, answer))
    if not drafts:
        return []
    pictures = render([scene for _, scene, *_ in drafts])
    return [
        NamedRow(
            id=name,
            images=(Image.fromarray(pixels),),
            context=_sentence(theme, item),
            prompt=prompt,
            answers=(answer,),
            named=_object(theme, item),
        )
        for (name, _, item, prompt, answer), pixels in zip(drafts, pictures, strict=True)
    ]


def _sentence(theme: Theme, item: Item) -> str:
    return f"There is {theme.named(item.digit, item.colour)} at the {PLACES[item.place]}."


def _object(theme: Theme, item: Item) -> NamedObject:
    """Return a picture with the cell of the 3 × 3 layout in which it lies."""
    row, column = divmod(item.place, 3)
    return NamedObject(
        box=(column / 3, row / 3, (column + 1) / 3, (row + 1) / 3),
        words=frozenset({theme.names[item.digit], item.colour, *PLACES[item.place].split()}),
    )


@checked(row=a(NamedRow), loss=required(text), strength=required(number), seed=required(integer))
def lose(row: NamedRow, loss: str, strength: float, *, seed: int = 0) -> NamedRow:
    """Take the object out of one modality.

    Args:
        row: A row as it was made.
        loss: `mask` blends the object's region into its mean colour, `blur` blurs it, `words` drops words of the context
            that name it.
        strength: From 0, nothing lost. `mask`: share of the mean colour, 1 leaves nothing else. `blur`: at 1 the
            Gaussian's sigma is a quarter of the region's shorter side. `words`: probability of each word; a higher one
            drops the same words and more.
        seed: Of the words that are dropped.

    Raises:
        DataError: The loss is unknown, or the strength is not from 0 to 1.
    """
    if loss not in LOSSES:
        raise DataError(f"unknown loss {loss!r}: {closest(loss, LOSSES)}")
    if not 0 <= strength <= 1:
        raise DataError(f"loss {loss}: got strength {strength:g}, expected 0 to 1")
    if loss == "words":
        context = _without_names(row, strength, seed)
        return dataclasses.replace(row, context=context)
    images = list(row.images)
    images[row.named.image] = _faded(images[row.named.image], row.named.box, loss, strength)
    return dataclasses.replace(row, images=tuple(images))


def _without_names(row: NamedRow, probability: float, seed: int) -> str | None:
    rng = random.Random(f"{seed}:words:{row.id}")
    draws = ((word, rng.random()) for word in (row.context or "").split(" "))
    kept = [
        word
        for word, draw in draws
        if draw >= probability or word.strip(_MARKS).lower() not in row.named.words
    ]
    return " ".join(kept) or None


def _faded(
    image: Image.Image, box: tuple[float, float, float, float], loss: str, strength: float
) -> Image.Image:
    sides = (image.width, image.height, image.width, image.height)
    left, top, right, bottom = (round(part * side) for part, side in zip(box, sides, strict=True))
    part = image.crop((left, top, right, bottom))
    if loss == "blur":
        sigma = strength * _LARGEST_SIGMA * min(part.size)
        part = gaussian_blur(part, sigma, np.random.default_rng(0))  # draws nothing
    else:
        pixels = np.asarray(part, np.float64)
        blended = (1 - strength) * pixels + strength * pixels.mean(axis=(0, 1))
        part = Image.fromarray(np.rint(blended).astype(np.uint8))
    faded = image.copy()
    faded.paste(part, (left, top))
    return faded


@checked(split=required(text), count=a_count, seed=required(integer), theme=a(Theme))
def lost_rows(split: str, *, count: int, seed: int = 0, theme: Theme = DIGITS) -> list[DemoRow]:
    """Generate rows to train on: each has lost its object from one modality, `LOSSES` in turn, by half or more.

    Args:
        split: `train`, `val` or `test`; they share no picture.
        count: Number of rows.
        seed: Another seed gives other rows.
        theme: What the pictures are.

    Returns:
        Questions without scenes, for `write_jsonl`.
    """
    rows = []
    for index, whole in enumerate(named_rows(split, count=count, seed=seed, theme=theme)):
        strength = random.Random(f"strength:{whole.id}").choice(_TRAINED_STRENGTHS)
        row = lose(whole, LOSSES[index % len(LOSSES)], strength, seed=seed)
        rows.append(
            DemoRow(
                id=row.id,
                task="vqa",
                images=row.images,
                prompt=row.prompt,
                context=row.context,
                answers=row.answers,
                scenes=(),
            )
        )
    return rows


@checked(rows=lazily(a(NamedRow)), folder=given_path)
def as_rows(rows: Iterable[NamedRow], folder: str | Path) -> list[Row]:
    """Write the pictures to a folder and return the rows as questions of `compare`, `diagnose` and `tune`.

    Args:
        rows: Rows with unique ids.
        folder: For the pictures; made if missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for row in rows:
        paths = tuple(folder / f"{row.id}-{index}.png" for index in range(len(row.images)))
        for path, image in zip(paths, row.images, strict=True):
            image.save(path)
        written.append(
            Row(
                id=row.id,
                task="vqa",
                images=paths,
                prompt=row.prompt,
                context=row.context,
                answers=row.answers,
            )
        )
    return written
