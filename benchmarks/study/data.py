"""The study's rows, clean: `tune` and `diagnose` degrade them."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.study.settings import StudySettings
from moir_edge.data.effects import gaussian_blur
from moir_edge.demo import demo_rows, write_jsonl
from moir_edge.demo.data import DemoRow

__all__ = ["SHUFFLED", "TEST", "TRAIN", "prepare_data", "shuffled_answers", "variance_left"]

TRAIN, SHUFFLED, TEST = "train", "shuffled", "test"
_SEED = 7
_VARIANCE_ROWS = 300


def prepare_data(settings: StudySettings, folder: Path) -> None:
    """Write the training rows, the same with shuffled answers, and the test rows, each as `NAME/data.jsonl`.

    The test split's digits are seen neither by the backbone's training nor by the tuning.
    """
    rows = _training_rows(settings, settings.train_rows)
    write_jsonl(rows, folder / TRAIN)
    write_jsonl(shuffled_answers(rows), folder / SHUFFLED)
    write_jsonl(demo_rows("test", count=settings.test_rows), folder / TEST)


def shuffled_answers(rows: list[DemoRow]) -> list[DemoRow]:
    """Return the rows with the answers dealt out anew among the rows of a task."""
    answers: dict[str, tuple[str, ...]] = {}
    for task in sorted({row.task for row in rows}):
        own = [row for row in rows if row.task == task]
        dealt = [row.answers for row in own]
        random.Random(_SEED).shuffle(dealt)
        answers |= {row.id: answer for row, answer in zip(own, dealt, strict=True)}
    return [dataclasses.replace(row, answers=answers[row.id]) for row in rows]


def variance_left(settings: StudySettings) -> float:
    """Return the share of the pictures' pixel variance that the study's blur leaves, over training pictures."""
    rows = _training_rows(settings, min(settings.train_rows, _VARIANCE_ROWS))

    rng = np.random.default_rng(0)  # every image effect takes one; a blur draws nothing

    def variance(image: Image.Image) -> float:
        return float(np.asarray(image).var(axis=(0, 1)).sum())

    pictures = [row.images[0] for row in rows]
    blurred = [gaussian_blur(image, settings.blur_sigma_px, rng) for image in pictures]
    return sum(map(variance, blurred)) / sum(map(variance, pictures))


def _training_rows(settings: StudySettings, count: int) -> list[DemoRow]:
    return demo_rows(settings.train_split, count=count, seed=_SEED)
