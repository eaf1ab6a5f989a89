"""The demo rows: deterministic, split by digit image, true in every sentence, balanced, and readable as JSON lines."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moir_edge.demo import DemoRow, demo_rows, write_jsonl
from moir_edge.demo.data import TASKS
from moir_edge.demo.glyphs import SPLITS, load_glyphs, split_indices
from moir_edge.demo.scenes import CELL, COLOURS, PLACES, SIZES, Item, Scene, render, sample_scene
from moir_edge.errors import DataError, EnvironmentProblem

from .oracle import answer_of, holds


@pytest.fixture(scope="module")
def rows() -> list[DemoRow]:
    return demo_rows("val", count=900, seed=3)


def test_rows_depend_on_split_seed_and_index_only() -> None:
    first, second = demo_rows("test", count=12), demo_rows("test", count=6)
    for one, other in zip(first, second, strict=False):
        assert (one.id, one.prompt, one.context, one.answers) == (
            other.id, other.prompt, other.context, other.answers,
        )  # fmt: skip
        for a, b in zip(one.images, other.images, strict=True):
            assert a.tobytes() == b.tobytes()
    assert [row.prompt for row in demo_rows("test", count=12, seed=1)] != [
        row.prompt for row in first
    ]
    assert [row.scenes for row in demo_rows("val", count=12)] != [row.scenes for row in first]


def test_a_row_has_two_images_only_for_statements(rows: list[DemoRow]) -> None:
    assert [row.task for row in rows[:6]] == [*TASKS, *TASKS]
    for row in rows:
        assert len(row.images) == (2 if row.task == "statement" else 1)
        assert all(image.size == (96, 96) and image.mode == "RGB" for image in row.images)
        assert len(row.answers) == (5 if row.task == "caption" else 1)
    assert len({row.id for row in rows}) == len(rows)


def test_splits_share_no_digit_image() -> None:
    seen = [{i for digit in split_indices(split) for i in digit} for split in SPLITS]
    assert sum(len(part) for part in seen) == len(set.union(*seen)) == 1797
    labels = load_glyphs().labels
    for split in SPLITS:
        for digit, indices in enumerate(split_indices(split)):
            assert {int(labels[i]) for i in indices} == {digit}
    for split, allowed in zip(SPLITS, seen, strict=True):
        drawn = {i.glyph for r in demo_rows(split, count=60) for s in r.scenes for i in s.items}
        assert drawn <= allowed


def test_every_answer_follows_from_the_scene(rows: list[DemoRow]) -> None:
    for row in rows:
        if row.task == "vqa":
            assert row.answers == (answer_of(row.prompt, row.scenes[0]),), row.prompt
        elif row.task == "statement":
            assert row.answers == (str(holds(row.prompt, row.scenes)).lower(),), row.prompt


def test_every_caption_names_each_digit_in_reading_order(rows: list[DemoRow]) -> None:
    for row in rows:
        if row.task != "caption":
            continue
        items = row.scenes[0].items
        assert [i.place for i in items] == sorted(i.place for i in items)
        for caption in row.answers:
            words = caption.rstrip(".").replace(",", "").split()
            assert [word for word in words if word.isdigit()] == [str(i.digit) for i in items]
            assert [word for word in words if word in COLOURS] == [i.colour for i in items]


def test_every_context_is_true(rows: list[DemoRow]) -> None:
    contexts = [row for row in rows if row.context is not None]
    assert 0.42 < len(contexts) / len(rows) < 0.58
    for row in contexts:
        assert holds(row.context or "", row.scenes), row.id


def test_statements_are_balanced_and_yes_no_questions_too() -> None:
    rows = demo_rows("train", count=3000, tasks=("statement", "vqa"))
    for task, word in (("statement", "true"), ("vqa", "yes")):
        answers = [row.answers[0] for row in rows if row.task == task]
        answers = [answer for answer in answers if answer in ("true", "false", "yes", "no")]
        share = answers.count(word) / len(answers)
        # Four standard deviations of a fair coin.
        assert abs(share - 0.5) < 2.0 / len(answers) ** 0.5


def test_digits_lie_in_their_cell_in_their_colour() -> None:
    scene = sample_scene(random.Random(0), "val", count=4)
    bare = Scene(items=scene.items[:1], background=scene.background, texture=scene.texture)
    pixels = render([scene, bare]).astype(int)
    inked = np.abs(pixels[0] - pixels[1]).max(-1) > 40
    cells = inked.reshape(3, CELL, 3, CELL).any(axis=(1, 3)).ravel()
    assert set(np.flatnonzero(cells)) == {item.place for item in scene.items[1:]}
    item = scene.items[0]
    row, column = divmod(item.place, 3)
    cell = pixels[1][row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
    brightest = cell.reshape(-1, 3)[cell.sum(-1).argmax()]
    assert np.abs(brightest - np.array(COLOURS[item.colour]) * item.shade).max() < 12


def test_jsonl_round_trip(tmp_path: Path) -> None:
    rows = demo_rows("test", count=9)
    target = write_jsonl(rows, tmp_path / "data")
    assert target.name == "data.jsonl"
    records = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [record["id"] for record in records] == [row.id for row in rows]
    for record, row in zip(records, rows, strict=True):
        assert ("context" in record) == (row.context is not None)
        assert record["prompt"] == row.prompt
        assert tuple(record["answers"]) == row.answers
        names = record["images"] if row.task == "statement" else [record["image"]]
        assert len(names) == len(row.images)
        for name, image in zip(names, row.images, strict=True):
            assert Image.open(target.parent / name).tobytes() == image.tobytes()


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="unknown split 'tset': did you mean 'test'"):
        demo_rows("tset", count=1)
    with pytest.raises(DataError, match="unknown task 'vqa2': did you mean 'vqa'"):
        demo_rows("test", count=1, tasks=("vqa2",))
    with pytest.raises(DataError, match="no task given"):
        demo_rows("test", count=1, tasks=())


def test_import_needs_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys; import moir_edge.demo;"
        "print([name for name in ('torch', 'sklearn', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_scikit_learn_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    load_glyphs.cache_clear()
    with pytest.raises(EnvironmentProblem, match="scikit-learn"):
        load_glyphs()


def test_the_oracle_rejects_a_wrong_sentence() -> None:
    item = Item(
        digit=7, glyph=0, colour="red", size=next(iter(SIZES)), place=PLACES.index("top"),
        shift=(0.0, 0.0), shade=1.0,
    )  # fmt: skip
    scene = Scene(items=(item,), background=(9, 9, 9), texture=0)
    assert holds("There is a red 7 at the top.", (scene,))
    assert not holds("There is a blue 7 at the top.", (scene,))
    assert not holds("There are 2 digits.", (scene,))
