"""The parts of the training that can be wrong without a crash: packing, labels, augmentation, word dropout."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.demo_training.batches import vision_batches
from benchmarks.demo_training.evaluate import degraded
from benchmarks.demo_training.segments import Segment, drop_words
from benchmarks.demo_training.sequences import Packer, mixed_batches, pack_rows
from benchmarks.demo_training.train import DEMO, Recipe
from benchmarks.icons.train import RECIPE
from moir_edge.demo import checkpoint_path, demo_rows
from moir_edge.errors import UnsupportedError


@pytest.fixture(scope="module", params=[DEMO, RECIPE], ids=["demo", "icons"])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    found: Recipe = request.param
    return found


@pytest.fixture(scope="module")
def tokenizer(recipe: Recipe) -> Any:
    from benchmarks.demo_training.build import build_tokenizer
    from benchmarks.demo_training.segments import language_samples

    return build_tokenizer(language_samples(60, recipe.wording.theme))


@pytest.fixture(scope="module")
def model(recipe: Recipe, tokenizer: Any) -> Any:
    torch.manual_seed(0)
    return recipe.build_model(tokenizer).eval()


def test_packed_text_is_what_the_chat_template_gives(recipe: Recipe, tokenizer: Any) -> None:
    from benchmarks.demo_training.evaluate import chat_text

    processor = recipe.build_processor(tokenizer)
    packer = Packer(tokenizer.backend_tokenizer.to_str(), recipe.wording)
    for task in ("vqa", "statement"):
        rows = demo_rows("val", count=4, tasks=(task,), theme=recipe.wording.theme)
        batch = pack_rows(packer, rows)
        for index, row in enumerate(rows):
            inputs = processor(text=[chat_text(processor, row)], images=[list(row.images)])
            asked = inputs["input_ids"][0]
            answer = tokenizer(f" {row.answers[0]}<end_of_utterance>")["input_ids"]
            length = len(asked) + len(answer)
            assert batch.ids[index, :length].tolist() == [*asked, *answer]
            labels = batch.labels[index]
            assert labels[labels >= 0].tolist() == answer


def test_packed_logits_are_those_of_the_model_on_what_its_processor_gives(
    recipe: Recipe, tokenizer: Any, model: Any
) -> None:
    from benchmarks.demo_training.evaluate import chat_text
    from benchmarks.demo_training.language import _answer_logits
    from benchmarks.demo_training.stages import image_features, normalised

    processor = recipe.build_processor(tokenizer)
    packer = Packer(tokenizer.backend_tokenizer.to_str(), recipe.wording)
    (row,) = demo_rows("val", count=1, tasks=("statement",), theme=recipe.wording.theme)
    batch = pack_rows(packer, [row])
    inputs = processor(
        text=[chat_text(processor, row)], images=[list(row.images)], return_tensors="pt"
    )
    with torch.no_grad():
        features = image_features(model, normalised(model, batch.pixels))
        packed = _answer_logits(model, batch, features)[0][0]
        alone = model(**inputs).logits[0, -1]
    # other kernels sum the attention in another order
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=1e-4)


def test_a_packed_segment_sees_neither_the_others_nor_padding(
    recipe: Recipe, tokenizer: Any, model: Any
) -> None:
    from benchmarks.demo_training.language import _answer_logits
    from benchmarks.demo_training.stages import image_features, normalised

    packer = Packer(tokenizer.backend_tokenizer.to_str(), recipe.wording)
    (row,) = demo_rows("val", count=1, tasks=("vqa",), theme=recipe.wording.theme)
    pixels = np.stack([np.asarray(row.images[0])])
    cells = np.zeros((1, 9, 3), np.int64)
    segments = [
        Segment(0, "Which digit is red?", "3"),
        Segment(0, "How many digits are there?", "2"),
    ]
    with torch.no_grad():
        features = image_features(model, normalised(model, pixels))
        alone = [
            _answer_logits(
                model, packer.pack([[s]], images=1, pixels=pixels, cells=cells), features
            )
            for s in segments
        ]
        packed = packer.pack([segments], images=1, pixels=pixels, cells=cells)
        together = _answer_logits(model, packed, features)
    expected = torch.cat([part[0] for part in alone])
    # The sums run over other lengths, so float32 rounding differs.
    torch.testing.assert_close(together[0], expected, atol=2e-5, rtol=1e-4)


def test_batches_are_seeded_and_hold_what_they_say(recipe: Recipe, tokenizer: Any) -> None:
    settings: dict[str, Any] = {
        "tokenizer_json": tokenizer.backend_tokenizer.to_str(), "seed": 4, "singles": 3, "pairs": 2,
        "wording": recipe.wording,
    }  # fmt: skip
    first, again = (next(mixed_batches(**settings)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.ids, other.ids)
        assert np.array_equal(one.pixels, other.pixels)
        assert one.pixels.shape == (one.ids.shape[0] * one.images, 96, 96, 3)


def test_vision_labels_match_the_pixels() -> None:
    batch = next(vision_batches(seed=0, batch=16, crowded=1.0))
    bright = batch.pixels.reshape(16, 3, 32, 3, 32, 3).max(axis=(2, 4, 5)).reshape(16, 9)
    assert bright[batch.labels[..., 0] > 0].mean() > bright[batch.labels[..., 0] == 0].mean() + 50
    assert ((batch.labels == 0).all(-1) == (batch.labels == 0).any(-1)).all()


def test_word_dropout_keeps_at_least_one_word() -> None:
    rng = random.Random(0)
    assert drop_words("a red 7", 0.0, rng) == "a red 7"
    assert all(len(drop_words("a red 7", 1.0, rng).split()) == 1 for _ in range(20))
    kept = [len(drop_words("one two three four", 0.5, rng).split()) for _ in range(400)]
    assert 1.8 < sum(kept) / len(kept) < 2.3


def test_rows_degraded_in_memory_keep_everything_else() -> None:
    rows = demo_rows("val", count=6)
    blurred = degraded(rows, "blur=3.5px")
    for row, other in zip(rows, blurred, strict=True):
        assert dataclasses.replace(other, images=row.images) == row
        assert np.asarray(other.images[0]).var() < 0.8 * np.asarray(row.images[0]).var()
    dropped = degraded(rows, "word-dropout=0.5")
    assert dropped == degraded(rows, "word-dropout=0.5")
    for row, other in zip(rows, dropped, strict=True):
        assert dataclasses.replace(other, prompt=row.prompt, context=row.context) == row
        assert set(other.prompt.split()) <= set(row.prompt.split())
    assert any(row.prompt != other.prompt for row, other in zip(rows, dropped, strict=True))
    assert {(row.prompt, row.context) for row in degraded(rows, "text-blank")} == {("", None)}
    with pytest.raises(UnsupportedError, match="'image-absent', expected one that changes pixels"):
        degraded(rows, "image-absent")


def test_card_and_curves_hold_the_measured_figures(tmp_path: Any) -> None:
    from benchmarks.demo_training.card import write_card
    from benchmarks.demo_training.train import Plan

    plan = Plan(seed=7).shortened(0.5)
    assert plan.vision_steps == round(Plan().vision_steps * 0.5)
    scores = {"vqa": 0.9123, "statement": 0.8, "caption": 0.7, "caption CIDEr-D": 7.891}
    record = {
        "plan": {**vars(plan), "router_steps": 400},
        "minutes": 61.5,
        "machine": "2-core test machine",
        "parameters": 2_500_000,
        "router_parameters": 40_000,
        "curves": [
            {"stage": 0, "step": 10, "seconds": 60.0, "cells_val": 0.5},
            {"stage": 1, "step": 10, "seconds": 60.0, "vqa_val": 0.6, "statement_val": 0.5, "caption_val": 0.1},
        ],
        "test": {"rows": dict.fromkeys(scores, 1000), "clean": scores},
    }  # fmt: skip
    write_card(record, tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| clean | 91.2 | 80.0 | 70.0 | 7.89 |" in card
    assert "61.5 minutes on a 2-core test machine" in card
    assert "| B language | 10 | 2.0 | – | 60.0 | 50.0 | 10.0 |" in card
    assert (tmp_path / "curves.svg").read_text(encoding="utf-8").startswith("<svg")


def test_a_new_router_leaves_the_vlm_as_it_is(tmp_path: Path) -> None:
    from benchmarks.demo_training.train import replace_router
    from benchmarks.study.settings import StudySettings

    study = StudySettings(steps=1, batch_size=2, train_rows=6, validation_rows=3, test_rows=3)
    record = replace_router(checkpoint_path(), tmp_path, study, test_rows=6)
    old, new = (load_file(folder / "model.safetensors") for folder in (checkpoint_path(), tmp_path))
    assert old.keys() == new.keys()
    changed = {name for name, weight in old.items() if not weight.equal(new[name])}
    assert {name.partition(".")[0] for name in changed} == {"moir_router"}
    names = {file.name for file in checkpoint_path().iterdir()}
    assert {file.name for file in tmp_path.iterdir()} == names
    for name in names - {"model.safetensors", "README.md", "training_log.json", "config.json"}:
        assert (tmp_path / name).read_bytes() == (checkpoint_path() / name).read_bytes(), name
    assert record["plan"]["router_steps"] == 1
    assert record["test"]["rows"] == {"vqa": 2, "statement": 2, "caption": 2}
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "1 router." in card
    assert "What the density shows" not in card  # measured anew by `benchmarks.density --card`
