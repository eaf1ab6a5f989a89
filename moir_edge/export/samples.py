"""Seeded inputs for parity: real sentences, smooth pictures, padded rows, several images in one, and none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from moir_edge.bundle import ModelFacts
from moir_edge.checkpoint import Checkpoint
from moir_edge.runtime.families import family_of
from moir_edge.runtime.image_processor import ImageShape, ProcessedImage

__all__ = ["ParitySample", "parity_samples"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

_SENTENCES = (
    "What is in the picture?",
    "The left half is brighter than the right half, and a large object stands in the middle of it.",
    "How many things can you count here? Name their colours, from the top to the bottom.",
    "True or false: both pictures show the same scene.",
)
_PAD = -1

_Part: TypeAlias = "tuple[list[int], ProcessedImage | None]"


@dataclass(frozen=True, kw_only=True)
class ParitySample:
    """One batch of prompts, padded on the left.

    Attributes:
        name: What it stands for.
        input_ids: (batch, sequence) int64.
        attention_mask: (batch, sequence) int64, 0 at padding.
        pixel_values: Float32, the tiles or patches of all images; None for a text-only prompt.
        images: The shapes of the images of all rows.
    """

    name: str
    input_ids: IntArray
    attention_mask: IntArray
    pixel_values: FloatArray | None
    images: tuple[ImageShape, ...] = ()


def parity_samples(
    checkpoint: Checkpoint, facts: ModelFacts, *, seed: int = 0
) -> list[ParitySample]:
    """Build the prompts that a bundle is checked with.

    Args:
        checkpoint: Gives the tokenizer.
        facts: Say what an image is to the model.
        seed: Seed of the pictures.
    """
    texts = [_encode(checkpoint, facts, sentence) for sentence in _SENTENCES]
    random, family = np.random.default_rng(seed), family_of(facts)

    def image() -> _Part:
        picture = family.sample_image(random)
        return [facts.image_token_id] * family.token_count(picture.shape), picture

    # Towers cost most, so the same two pictures stand in both: torch answers once, the graph in two ways.
    first, second = image(), image()
    rows: dict[str, list[list[_Part]]] = {
        "two images": [[first, (texts[1][:2], None), second, (texts[3], None)]],
        "padded batch": [[first, (texts[0], None)], [second, (texts[1], None)]],
        "text only": [[(texts[2], None)], [(texts[0], None)]],
    }
    return [_sample(name, parts, facts.pad_token_id) for name, parts in rows.items()]


def _encode(checkpoint: Checkpoint, facts: ModelFacts, sentence: str) -> list[int]:
    ids = checkpoint.tokenizer(sentence, add_special_tokens=False)["input_ids"]
    return [int(token) for token in ids if token != facts.image_token_id]


def _sample(name: str, rows: Sequence[Sequence[_Part]], pad_token_id: int) -> ParitySample:
    encoded = [[token for ids, _ in row for token in ids] for row in rows]
    width = max(map(len, encoded))
    padded = np.array([[_PAD] * (width - len(row)) + row for row in encoded], dtype=np.int64)
    mask = (padded != _PAD).astype(np.int64)
    pictures = [picture for row in rows for _, picture in row if picture is not None]
    return ParitySample(
        name=name,
        input_ids=np.where(mask == 1, padded, pad_token_id),
        attention_mask=mask,
        pixel_values=np.concatenate([one.pixel_values for one in pictures]) if pictures else None,
        images=tuple(picture.shape for picture in pictures),
    )
