"""One checkpoint, one trace and one data file per family, for every test over the registry."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import moir_edge
from moir_edge.checkpoint import load_checkpoint
from moir_edge.export import TracedModel, assemble, trace_components
from moir_edge.models import architecture_names
from moir_edge.runtime import EdgeModel
from tests.unit.families.tiny import save_tiny

Row = tuple[str, list[Image.Image]]
ANSWER = 8
"""Tokens of an answer at most."""
TOLD: dict[str, str] = {}
"""What was logged when the graphs of `traced` were made, by the type of the model."""


@dataclass(frozen=True)
class Twins:
    """The same weights twice: in a bundle, and in torch with the Hugging Face processor."""

    edge: EdgeModel
    torch: Any
    processor: Any

    def inputs(self, row: Row) -> Any:
        prompt, images = row
        parts = [{"type": "image"} for _ in images]
        turn = {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}
        text = self.processor.apply_chat_template([turn], add_generation_prompt=True)
        if not images and type(self.processor).__name__ == "PaliGemmaProcessor":
            # It refuses a prompt without images; the model takes one, written by the same rule.
            found = self.processor.tokenizer(f"<bos>{text}\n", return_tensors="pt")
            return {**found, "token_type_ids": torch.zeros_like(found["input_ids"])}
        # One list for each row, as `apply_chat_template` gives them: LLaVA-OneVision counts the images of a row.
        return self.processor(images=[images] if images else None, text=text, return_tensors="pt")

    def answer(self, row: Row) -> list[int]:
        inputs = self.inputs(row)
        with torch.no_grad():
            ids = self.torch.generate(**inputs, max_new_tokens=ANSWER, do_sample=False)
        return list(map(int, ids[0, inputs["input_ids"].shape[1] :]))


@pytest.fixture(scope="session", params=architecture_names())
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TracedModel:
    """The traced graphs of a tiny checkpoint with a router; tracing is nearly all that an export of it costs."""
    folder = save_tiny(request.param, tmp_path_factory.mktemp("family") / request.param)
    told = logging.StreamHandler(io.StringIO())
    log = logging.getLogger("moir_edge")
    log.addHandler(told)
    try:
        model = trace_components(load_checkpoint(folder))
    finally:
        log.removeHandler(told)
    TOLD[model.facts.model_type] = told.stream.getvalue()
    return model


@pytest.fixture(scope="session")
def fp32_bundle(traced: TracedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The traced graphs as a bundle in float32."""
    return assemble(traced, tmp_path_factory.mktemp("bundle") / "fp32")


@pytest.fixture(scope="module")
def twins(traced: TracedModel, fp32_bundle: Path) -> Iterator[Twins]:
    """The bundle and the model that it was traced from."""
    loaded = traced.checkpoint
    hooks = []
    if loaded.model.config.model_type == "mistral3":
        # The model takes the features of a picture of one token for a batch of one and splits their width (5.23); with a
        # batch in front of them it splits pictures, as it does for all others.
        projector = loaded.model.model.multi_modal_projector
        hooks = [projector.register_forward_hook(lambda *given: given[2][None])]
    yield Twins(moir_edge.load(fp32_bundle, threads=1), loaded.model, loaded.processor)
    for hook in hooks:
        hook.remove()


@pytest.fixture(scope="session")
def question_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rows with a noise picture and an answer, to calibrate and to tune with."""
    folder = tmp_path_factory.mktemp("questions")
    lines = []
    for seed in range(4):
        picture(30, 50, seed).save(folder / f"{seed}.png")
        row = {"image": f"{seed}.png", "prompt": f"what is it, {seed}?", "answers": ["red"]}
        lines.append(json.dumps(row))
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Return a picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
