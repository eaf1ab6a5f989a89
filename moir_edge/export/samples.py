"""Seeded inputs for parity: real sentences, smooth pictures, a padded row, several images, and none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moir_edge.bundle import ModelFacts
from moir_edge.checkpoint import Checkpoint

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


@dataclass(frozen=True, kw_only=True)
class ParitySample:
    """One batch of prompts, padded on the left.

    Attributes:
        name: What it stands for.
        input_ids: (batch, sequence) int64.
        attention_mask: (batch, sequence) int64, 0 at padding.
        pixel_values: (batch × images per row, 3, height, width) float32 in [-1, 1]; None for a text-only prompt.
    """

    name: str
    input_ids: IntArray
    attention_mask: IntArray
    pixel_values: FloatArray | None


def parity_samples(
    checkpoint: Checkpoint, facts: ModelFacts, *, seed: int = 0
) -> list[ParitySample]:
    """Build the prompts that a bundle is checked with.

    Args:
        checkpoint: Gives the tokenizer.
        facts: Give the image token, tile size and tokens per tile.
        seed: Seed of the pictures.
    """
    texts = [_encode(checkpoint, facts, sentence) for sentence in _SENTENCES]
    image = [facts.image_token_id] * facts.tokens_per_tile
    random = np.random.default_rng(seed)
    rows: dict[str, tuple[list[list[int]], int]] = {
        "one image": ([[*image, *texts[0]]], 1),
        "padded batch": ([[*image, *text] for text in texts[:3]], 3),
        "two images": ([[*image, *texts[1][:2], *image, *texts[3]]], 2),
        "text only": ([texts[2], texts[0]], 0),
    }
    return [
        _sample(name, ids, _pictures(random, tiles, facts.image_size), facts.pad_token_id)
        for name, (ids, tiles) in rows.items()
    ]


def _encode(checkpoint: Checkpoint, facts: ModelFacts, sentence: str) -> list[int]:
    ids = checkpoint.tokenizer(sentence, add_special_tokens=False)["input_ids"]
    return [int(token) for token in ids if token != facts.image_token_id]


def _sample(
    name: str, rows: Sequence[Sequence[int]], tiles: FloatArray, pad_token_id: int
) -> ParitySample:
    width = max(len(row) for row in rows)
    padded = np.array([[_PAD] * (width - len(row)) + list(row) for row in rows], dtype=np.int64)
    mask = (padded != _PAD).astype(np.int64)
    return ParitySample(
        name=name,
        input_ids=np.where(mask == 1, padded, pad_token_id),
        attention_mask=mask,
        pixel_values=tiles if len(tiles) else None,
    )


def _pictures(random: np.random.Generator, count: int, size: int) -> FloatArray:
    """Return coloured gradients with soft blobs, (count, 3, size, size) in [-1, 1]."""
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    pictures = np.zeros((count, 3, size, size))
    for picture in pictures:
        slope = random.normal(size=(3, 2, 1, 1))
        picture += slope[:, 0] * (x - 0.5) + slope[:, 1] * (y - 0.5)
        for _ in range(4):
            centre_x, centre_y = random.uniform(0.1, 0.9, size=2)
            width = random.uniform(0.05, 0.2)
            blob = np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / width**2)
            picture += random.normal(size=(3, 1, 1)) * 2 * blob
    return np.tanh(pictures).astype(np.float32)
