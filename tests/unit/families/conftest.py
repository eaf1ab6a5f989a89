"""One checkpoint, one trace and one data file per family, for every test over the registry."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moir_edge.checkpoint import load_checkpoint
from moir_edge.export import TracedModel, assemble, trace_components
from moir_edge.models import architecture_names
from tests.unit.families.tiny import save_tiny


@pytest.fixture(scope="session", params=architecture_names())
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TracedModel:
    """The traced graphs of a tiny checkpoint with a router; tracing is nearly all that an export of it costs."""
    folder = save_tiny(request.param, tmp_path_factory.mktemp("family") / request.param)
    return trace_components(load_checkpoint(folder))


@pytest.fixture(scope="session")
def fp32_bundle(traced: TracedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The traced graphs as a bundle in float32."""
    return assemble(traced, tmp_path_factory.mktemp("bundle") / "fp32")


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
