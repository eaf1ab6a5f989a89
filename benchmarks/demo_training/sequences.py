"""Token sequences for training: one image prefix followed by many independent question-answer segments."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.demo_training.batches import Augmentation, augmented_pixels, cell_labels
from benchmarks.demo_training.build import EOS, GLOBAL_IMAGE, IMAGE, IMAGE_EDGE, IMAGE_TOKENS
from benchmarks.demo_training.segments import (
    Segment,
    pair_bridges,
    pair_segments,
    single_bridges,
    single_segments,
)
from moir_edge.demo.data import TASKS, DemoRow
from moir_edge.demo.scenes import COLOURS, SIZES, related_scene, sample_scene
from moir_edge.demo.theme import DIGITS, Theme

__all__ = ["PackedBatch", "Packer", "Wording", "mixed_batches", "pack_rows"]


@dataclass(frozen=True, kw_only=True)
class Wording:
    """Language of rows: the words and the form in which they become text.

    Attributes:
        theme: What the pictures of the scenes are.
        image: What the processor makes of one image in the chat's text.
    """

    theme: Theme = DIGITS
    image: str = IMAGE_EDGE + GLOBAL_IMAGE + IMAGE * IMAGE_TOKENS + IMAGE_EDGE


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """Rows that share one number of images.

    Attributes:
        ids: (batch, length) int64 token ids, right-padded.
        segments: (batch, length) int64: 0 the image prefix, 1.. the segments, -1 padding. A token sees the prefix and
            its own segment.
        positions: (batch, length) int64: every segment starts right after the prefix.
        labels: (batch, length) int64: the id at answer positions, else -100 (not shifted).
        tasks: (batch, length) int64: index into `TASKS` at answer positions, else -1.
        pixels: (batch * images, 96, 96, 3) uint8.
        cells: (batch * images, 9, 3) int64, see `VisionBatch.labels`.
        images: Images per row.
    """

    ids: npt.NDArray[np.int64]
    segments: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    tasks: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]
    cells: npt.NDArray[np.int64]
    images: int


class Packer:
    """Tokenizes segments as the chat template formats them and packs them behind one image prefix.

    Args:
        tokenizer_json: The text of a `tokenizer.json`.
        wording: How rows become text; the demo's by default.
    """

    def __init__(self, tokenizer_json: str, wording: Wording | None = None) -> None:
        from tokenizers import Tokenizer

        self._wording = wording or Wording()
        self._tokenizer = Tokenizer.from_str(tokenizer_json)

    def label_words(self) -> list[list[int]]:
        """Return the token ids of the theme's names, the colours and the sizes; each is one token.

        Raises:
            ValueError: A word is more than one token.
        """
        groups = [[*self._wording.theme.names], [*COLOURS], [*SIZES]]
        result = []
        for group in groups:
            found = [self._tokenizer.encode(f" {word}").ids for word in group]
            if any(len(ids) != 1 for ids in found):
                raise ValueError(f"the tokenizer splits one of {group}; train it on more sentences")
            result.append([ids[0] for ids in found])
        return result

    def prefix(self, images: int) -> list[int]:
        """Return the tokens up to and including the last image."""
        text = f"<|im_start|>User:{self._wording.image * images}"
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def pack(
        self,
        rows: Sequence[Sequence[Segment]],
        *,
        images: int,
        pixels: npt.NDArray[np.uint8],
        cells: npt.NDArray[np.int64],
    ) -> PackedBatch:
        """Pack one list of segments per row; `pixels` and `cells` hold `images` entries per row."""
        prefix = self.prefix(images)
        flat = [segment for row in rows for segment in row]
        texts = [f"{segment.text}{EOS}\nAssistant:" for segment in flat]
        answers = [f" {segment.answer}{EOS}" for segment in flat]
        asked = iter([item.ids for item in self._tokenizer.encode_batch(texts)])
        told = iter([item.ids for item in self._tokenizer.encode_batch(answers)])
        columns: list[list[list[int]]] = [[], [], [], [], []]
        for row in rows:
            start = len(prefix)
            lines = [prefix[:], [0] * start, list(range(start)), [-100] * start, [-1] * start]
            for index, segment in enumerate(row):
                user, answer = next(asked), next(told)
                size = len(user) + len(answer)
                lines[0] += user + answer
                lines[1] += [index + 1] * size
                lines[2] += range(start, start + size)
                lines[3] += [-100] * len(user) + answer
                lines[4] += [-1] * len(user) + [segment.task] * len(answer)
            for column, line in zip(columns, lines, strict=True):
                column.append(line)
        length = max(len(line) for line in columns[0])
        padded = [
            np.array([line + [fill] * (length - len(line)) for line in column], np.int64)
            for column, fill in zip(columns, (0, -1, 0, -100, -1), strict=True)
        ]
        return PackedBatch(
            ids=padded[0], segments=padded[1], positions=padded[2], labels=padded[3], tasks=padded[4],
            pixels=pixels, cells=cells, images=images,
        )  # fmt: skip


def mixed_batches(
    *,
    tokenizer_json: str,
    seed: int,
    singles: int,
    pairs: int,
    questions: int = 5,
    statements: int = 6,
    blur_share: float = 0.12,
    drop_share: float = 0.25,
    wording: Wording | None = None,
) -> Iterator[tuple[PackedBatch, PackedBatch]]:
    """Yield endless (one-image batch, two-image batch) pairs from the training pictures.

    Args:
        tokenizer_json: Content of `tokenizer.json`.
        seed: Seed of scenes, texts and pixels.
        singles: One-image rows a batch.
        pairs: Two-image rows a batch.
        questions: Questions per one-image row, besides its caption.
        statements: Statements per two-image row.
        blur_share: Share of blurred images.
        drop_share: Share of contexts that lose words.
        wording: How rows become text; the demo's by default.
    """
    wording = wording or Wording()
    packer, rng, theme = Packer(tokenizer_json, wording), random.Random(seed), wording.theme
    pixel_rng = np.random.default_rng(seed)
    augmentation = Augmentation(blur_share=blur_share)
    while True:
        scenes = [sample_scene(rng, "train", theme=theme) for _ in range(singles)]
        rows = [single_segments(scene, rng, questions, drop_share) for scene in scenes]
        pairs_of_scenes = [
            (scene, related_scene(rng, "train", scene))
            for scene in (sample_scene(rng, "train", theme=theme) for _ in range(pairs))
        ]
        double_rows = [pair_segments(pair, rng, statements, drop_share) for pair in pairs_of_scenes]
        rows = [row + single_bridges(scene, rng) for row, scene in zip(rows, scenes, strict=True)]
        double_rows = [
            row + pair_bridges(pair, rng)
            for row, pair in zip(double_rows, pairs_of_scenes, strict=True)
        ]
        both = [scene for pair in pairs_of_scenes for scene in pair]
        yield (
            packer.pack(
                rows,
                images=1,
                pixels=augmented_pixels(scenes, pixel_rng, augmentation),
                cells=cell_labels(scenes),
            ),
            packer.pack(
                double_rows,
                images=2,
                pixels=augmented_pixels(both, pixel_rng, augmentation),
                cells=cell_labels(both),
            ),
        )


def pack_rows(packer: Packer, rows: Sequence[DemoRow]) -> PackedBatch:
    """Pack data rows with the same number of images as they are, one segment each."""
    scenes = [scene for row in rows for scene in row.scenes]
    pixels = np.stack([np.asarray(image) for row in rows for image in row.images])
    segments = []
    for row in rows:
        text = row.prompt if row.context is None else f"{row.context} {row.prompt}"
        segments.append([Segment(TASKS.index(row.task), text, row.answers[0])])
    return packer.pack(
        segments, images=len(rows[0].images), pixels=pixels, cells=cell_labels(scenes)
    )
