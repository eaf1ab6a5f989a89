"""The prompts of a run: rows of a data set, or prompts of given lengths with pictures, both made from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moir_edge.bundle import Bundle
from moir_edge.data.rows import Row, naming
from moir_edge.evaluation.measure import latency_sample
from moir_edge.evaluation.parity.schema import PromptFacts
from moir_edge.evaluation.parity.settings import BenchSettings

__all__ = ["Prompts", "prompts_of"]

ROWS_PER_LENGTH = 8
"""Prompts of each length that parity is measured on; the first of them is timed."""

_DATA_LABEL = "data"
_WORDS = [
    "what",
    "which",
    "where",
    "how",
    "many",
    "colour",
    "is",
    "are",
    "the",
    "a",
    "left",
    "right",
    "above",
    "below",
    "of",
    "between",
    "object",
    "digit",
    "picture",
    "corner",
    "red",
    "green",
    "blue",
    "large",
    "small",
    "number",
    "name",
    "describe",
    "and",
    "or",
    "near",
    "first",
    "last",
    "shape",
]


@dataclass(frozen=True)
class Prompts:
    """The rows of a run.

    Attributes:
        rows: All of them.
        labels: The kind of each row.
        timed: Indices of those that are timed.
    """

    rows: tuple[Row, ...]
    labels: tuple[str, ...]
    timed: tuple[int, ...]

    def facts(self, bundle: Bundle) -> tuple[PromptFacts, ...]:
        """Describe each kind.

        Args:
            bundle: Gives the tokenizer and the image processor, which all bundles of a run share.

        Raises:
            DataError: A timed prompt is longer than the model's context.
        """
        lengths = dict(zip(self.timed, _token_counts(bundle, self), strict=True))
        return tuple(self._facts(label, lengths) for label in dict.fromkeys(self.labels))

    def _facts(self, label: str, lengths: dict[int, int]) -> PromptFacts:
        own = [at for at, name in enumerate(self.labels) if name == label]
        images = [len(self.rows[at].images) for at in own]
        tokens = [lengths[at] for at in own if at in lengths] or [0]
        return PromptFacts(
            label=label,
            rows=len(own),
            timed_rows=sum(at in lengths for at in own),
            images=(min(images), max(images)),
            tokens=(min(tokens), max(tokens)),
        )


def prompts_of(settings: BenchSettings, folder: Path, image_size: int) -> Prompts:
    """Read or make the prompts.

    Args:
        settings: Of the run.
        folder: Where pictures that are made are written.
        image_size: Height and width of those pictures, in pixels.

    Raises:
        DataError: The data cannot be used.
    """
    if settings.data is not None:
        rows = settings.data.read(limit=settings.limit)
        timed = latency_sample(rows, min(settings.timed_rows, len(rows)))
        return Prompts(tuple(rows), (_DATA_LABEL,) * len(rows), timed)
    return _made(settings, folder, image_size)


def _made(settings: BenchSettings, folder: Path, image_size: int) -> Prompts:
    random = np.random.default_rng(settings.seed)
    pictures = [_picture(random, folder / f"{at}.png", image_size) for at in range(settings.images)]
    rows, labels = [], []
    for words in dict.fromkeys(settings.prompt_words):
        for at in range(ROWS_PER_LENGTH):
            text = " ".join(random.choice(_WORDS, size=words))
            rows.append(Row(id=f"{words}-{at}", task="vqa", images=tuple(pictures), prompt=text))
            labels.append(f"{words} words")
    timed = tuple(range(0, len(rows), ROWS_PER_LENGTH))
    return Prompts(tuple(rows), tuple(labels), timed)


def _picture(random: np.random.Generator, path: Path, size: int) -> Path:
    """Write soft coloured blobs as a PNG file."""
    from PIL import Image

    coarse = random.integers(0, 256, size=(6, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(path)
    return path


def _token_counts(bundle: Bundle, prompts: Prompts) -> Sequence[int]:
    """Return the tokens of every timed prompt, image tokens included."""
    from moir_edge.runtime.processor import Processor

    processor = Processor(bundle.files, bundle.manifest.model)
    counts: list[int] = []
    for at in prompts.timed:
        row = prompts.rows[at]
        with naming(row):
            counts += processor([row.conversation], [list(row.images)]).prompt_lengths
    return counts
