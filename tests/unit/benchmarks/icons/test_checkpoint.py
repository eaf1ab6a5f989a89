"""The trained LLaVA that the repository keeps: it reads pictures that it has not seen, and its log says how it came to be."""

from __future__ import annotations

import dataclasses

import pytest
from PIL import Image

from benchmarks.demo_training.evaluate import answer_rows, task_accuracy
from benchmarks.icons.theme import ICONS
from benchmarks.icons.train import ICON_PLAN, MORE_PLAN
from benchmarks.study.backbones import ICON_CHECKPOINT
from moir_edge.checkpoint import Checkpoint, load_checkpoint
from moir_edge.demo import demo_rows
from moir_edge.json_files import read_object

_ROWS = 90
_AT_LEAST = {"vqa": 0.8, "statement": 0.85, "caption": 0.6}
"""Between what chance gives, as of one in ten names, and the figures of the card: a wrong file, and not a fluke, falls below."""


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(ICON_CHECKPOINT, exported=False)


def test_it_answers_of_pictures_that_it_has_not_seen(checkpoint: Checkpoint) -> None:
    rows = demo_rows("test", count=_ROWS, theme=ICONS)
    found = task_accuracy(rows, answer_rows(checkpoint.model, checkpoint.processor, rows))
    assert found.keys() == _AT_LEAST.keys()
    for task, least in _AT_LEAST.items():
        assert found[task] >= least, task


def test_it_needs_the_picture(checkpoint: Checkpoint) -> None:
    rows = [
        dataclasses.replace(row, images=tuple(Image.new("RGB", one.size, (128,) * 3) for one in row.images))
        for row in demo_rows("test", count=_ROWS, theme=ICONS)
    ]  # fmt: skip
    found = task_accuracy(rows, answer_rows(checkpoint.model, checkpoint.processor, rows))
    assert found["vqa"] < 0.5
    assert found["caption"] < 0.1


def test_its_log_holds_both_rounds() -> None:
    log = read_object(ICON_CHECKPOINT / "training_log.json", remedy="train it again")
    assert log["plan"] == dataclasses.asdict(MORE_PLAN)
    assert log["started_from"]["plan"] == dataclasses.asdict(ICON_PLAN)
    assert log["curves"][-1]["step"] == MORE_PLAN.joint_steps
