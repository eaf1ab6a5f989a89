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
from moir_edge.demo.theme import DIGITS, Theme

__all__ = [
    "SHUFFLED",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "prepare_data",
    "shuffled_answers",
    "variance_left",
]

TRAIN, SHUFFLED, TEST, VALIDATION = "train", "shuffled", "test", "validation"
_SEED = 7
_VALIDATION_SEED = 16
_TEST_SEED = 16  # rows of seed 0 were read by earlier studies
_VARIANCE_ROWS = 300


def prepare_data(settings: StudySettings, folder: Path, theme: Theme = DIGITS) -> None:
    """Write the training rows, the same with shuffled answers, validation and test rows, each as `NAME/data.jsonl`.

    The test split's pictures are seen neither by the backbone's training nor by the tuning. Validation rows show other
    scenes of the pictures that the tuning sees.
    """
    rows = _training_rows(settings, settings.train_rows, theme)
    write_jsonl(rows, folder / TRAIN)
    write_jsonl(shuffled_answers(rows), folder / SHUFFLED)
    for name, split, count, seed in (
        (VALIDATION, settings.train_split, settings.validation_rows, _VALIDATION_SEED),
        (TEST, "test", settings.test_rows, _TEST_SEED),
    ):
        write_jsonl(demo_rows(split, count=count, seed=seed, theme=theme), folder / name)


def shuffled_answers(rows: list[DemoRow]) -> list[DemoRow]:
    """Return the rows with the answers dealt out anew among the rows of a task."""
    answers: dict[str, tuple[str, ...]] = {}
    for task in sorted({row.task for row in rows}):
        own = [row for row in rows if row.task == task]
        dealt = [row.answers for row in own]
        random.Random(_SEED).shuffle(dealt)
        answers |= {row.id: answer for row, answer in zip(own, dealt, strict=True)}
    return [dataclasses.replace(row, answers=answers[row.id]) for row in rows]


def variance_left(settings: StudySettings, theme: Theme = DIGITS) -> float:
    """Return the share of the pictures' pixel variance that the study's blur leaves, over training pictures."""
    rows = _training_rows(settings, min(settings.train_rows, _VARIANCE_ROWS), theme)

    rng = np.random.default_rng(0)  # every image effect takes one; a blur draws nothing

    def variance(image: Image.Image) -> float:
        return float(np.asarray(image).var(axis=(0, 1)).sum())

    pictures = [row.images[0] for row in rows]
    blurred = [gaussian_blur(image, settings.blur_sigma_px, rng) for image in pictures]
    return sum(map(variance, blurred)) / sum(map(variance, pictures))


def _training_rows(settings: StudySettings, count: int, theme: Theme) -> list[DemoRow]:
    return demo_rows(settings.train_split, count=count, seed=_SEED, theme=theme)
