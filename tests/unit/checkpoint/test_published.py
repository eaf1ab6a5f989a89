"""Both generations of SmolVLM, laid out as published: every command opens them, without torchvision and num2words."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import moir_edge
from moir_edge.bundle.files import ModelFiles
from moir_edge.checkpoint import load_checkpoint
from moir_edge.cli.main import main
from moir_edge.data.rows import read_rows
from moir_edge.evaluation.candidates import load_candidate, spec_of
from moir_edge.export.facts import model_facts
from moir_edge.runtime.chat import user_message
from moir_edge.runtime.processor import Processor

GENERATIONS = ["smolvlm", "smolvlm2"]
CLASSES = {"smolvlm": "Idefics3", "smolvlm2": "SmolVLM"}
# (height, width): one tile, tiles in both directions, odd sides, a strip
SIZES = [(32, 32), (40, 96), (97, 61), (7, 120), (300, 200)]

pytestmark = pytest.mark.parametrize("generation", GENERATIONS)


def picture(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng([height, width]).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def test_opens_without_the_packages_for_video(
    published: Callable[..., Path], generation: str
) -> None:
    assert importlib.util.find_spec("num2words") is None  # what the test is about
    checkpoint = load_checkpoint(published(generation))
    name = CLASSES[generation]
    assert type(checkpoint.model).__name__ == f"{name}ForConditionalGeneration"
    assert type(checkpoint.processor).__name__ == f"{name}Processor"
    assert type(checkpoint.processor.image_processor).__name__ == f"{name}ImageProcessorPil"


def test_runtime_prepares_what_transformers_prepares(
    published: Callable[..., Path], generation: str
) -> None:
    checkpoint = load_checkpoint(published(generation))
    facts = model_facts(checkpoint)
    assert (facts.tokens_per_tile, facts.pad_token_id) == (4, 2)
    ours = Processor(ModelFiles(checkpoint.folder), facts)
    theirs = checkpoint.processor
    for size in SIZES:
        image = picture(*size)
        parts = [{"type": "image", "image": image}, {"type": "text", "text": "What is\nit?"}]
        expected = theirs.apply_chat_template(
            [[{"role": "user", "content": parts}]],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="np",
        )
        got = ours([user_message("What is\nit?", images=1)], [[image]])
        np.testing.assert_array_equal(got.input_ids, expected["input_ids"])
        assert got.pixel_values is not None
        np.testing.assert_array_equal(got.pixel_values, expected["pixel_values"][0])


def test_retrofit_export_and_run_give_transformers_tokens(
    published: Callable[..., Path],
    generation: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, routed, bundle = published(generation), tmp_path / "routed", tmp_path / "bundle"
    assert main(["retrofit", str(source), "-o", str(routed), "--rank", "4"]) == 0
    for (
        path
    ) in source.iterdir():  # a user with torchvision finds the processor's files as they were
        if path.name not in ("config.json", "generation_config.json", "model.safetensors"):
            assert (routed / path.name).read_bytes() == path.read_bytes()
    assert main(["export", str(routed), "-o", str(bundle)]) == 0
    capsys.readouterr()
    picture(40, 96).save(tmp_path / "a.png")
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"image": "a.png", "prompt": "What is it?", "answers": ["x"]}))
    rows = read_rows(data)
    answers: list[Any] = [
        load_candidate(spec_of(folder, threads=1, max_new_tokens=6)).answer(rows)[0].token_ids
        for folder in (routed, bundle)
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) > 0
    assert moir_edge.load(bundle).manifest.router is not None
