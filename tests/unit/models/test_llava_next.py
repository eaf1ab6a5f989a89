"""LLaVA-NeXT and LLaVA-OneVision: graph and rows against the model's own features, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)

from moir_edge.bundle import ModelFacts
from moir_edge.checkpoint import load_checkpoint
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.models import get_architecture
from moir_edge.runtime.families import family_of
from moir_edge.runtime.families.anyres import AnyRes
from moir_edge.runtime.image_processor import ImageShape, View
from moir_edge.runtime.processor import ModelInputs
from tests.unit.conftest import TEXT
from tests.unit.families.tiny import TOWER, save_tiny

CANVASES = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
# Portrait, landscape, square, one pixel, and lines: (height, width).
SIZES = [(90, 20), (31, 77), (48, 48), (1, 1), (1, 300), (300, 1), (20, 21)]
KINDS = {
    "llava_next": (LlavaNextConfig, LlavaNextForConditionalGeneration),
    "llava_onevision": (LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration),
}


class Host:
    """Keeps arrays as they are."""

    def to_numpy(self, embeds: Any) -> Any:
        return embeds

    def from_numpy(self, embeds: Any) -> Any:
        return embeds


def build_config(model_type: str, tower: str, **changes: Any) -> Any:
    return KINDS[model_type][0](
        vision_config={**TOWER, "model_type": f"{tower}_vision_model", "projection_dim": 16},
        text_config={**TEXT, "vocab_size": 262},
        image_token_id=3,
        image_grid_pinpoints=CANVASES,
        **changes,
    )


def build_family(config: Any) -> AnyRes:
    architecture = get_architecture(config.model_type)
    grid = architecture.image_grid(config)
    assert grid is not None
    facts: dict[str, Any] = {
        "model_type": config.model_type,
        "image_size": architecture.image_size(config),
        "tokens_per_tile": grid.tokens,
        "image_grid": grid,
        "family": architecture.family_facts(config),
    }
    found = family_of(ModelFacts.model_construct(**facts))
    assert isinstance(found, AnyRes)
    return found


@pytest.mark.parametrize(
    ("model_type", "tower", "changes"),
    [
        ("llava_next", "clip", {"vision_feature_layer": -1}),
        ("llava_next", "clip", {"vision_feature_layer": [0, -2]}),
        ("llava_next", "siglip", {"vision_feature_select_strategy": "full"}),
        ("llava_onevision", "siglip", {"vision_aspect_ratio": "anyres_max_1"}),
        (
            "llava_onevision",
            "clip",
            {"vision_feature_select_strategy": "default", "vision_feature_layer": [1, -1]},
        ),
    ],
)
def test_rows_are_the_models_own(model_type: str, tower: str, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = build_config(model_type, tower, **changes)
    architecture, model = get_architecture(model_type), KINDS[model_type][1](config).eval()
    assert architecture.config_problem(config) is None
    family, graph = build_family(config), architecture.vision_graph(model)
    shapes = [family.shape_of(size) for size in SIZES]
    if model_type == "llava_onevision":  # two images without tiles in the middle of the others
        squares = [ImageShape(rows=0, columns=0, views=(View(kind="crop"),), size=(5, 9))] * 2
        shapes[3:3] = squares
    tiles = [image.rows * image.columns + 1 for image in shapes]
    pixels = np.random.default_rng(0).normal(size=(sum(tiles), 3, 24, 24)).astype(np.float32)
    inputs = ModelInputs(
        input_ids=np.zeros((1, 1), np.int64),
        attention_mask=np.ones((1, 1), np.int64),
        pixel_values=pixels,
        prompts=(),
        images=tuple(shapes),
    )
    with torch.no_grad():
        expected = architecture.reference_features(model, architecture.torch_inputs(inputs))
        runs = [graph(part) for part in torch.from_numpy(pixels).split(7)]
    outputs = [{"image_features": a.numpy(), "image_newline": b.detach().numpy()} for a, b in runs]
    host: Any = Host()
    ours = family.assembled(outputs, shapes, host).features
    assert len(ours) == sum(map(family.token_count, shapes))
    # Batches of another size round elsewhere in torch.
    np.testing.assert_allclose(ours, expected.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("model_type", "tower", "changes", "words"),
    [
        (
            "llava_next",
            "siglip",
            {},
            "vision_feature_select_strategy 'default' does not fit the tower 'siglip_vision_model'",
        ),
        (
            "llava_onevision",
            "clip",
            {},
            "vision_feature_select_strategy 'full' does not fit the tower 'clip_vision_model'",
        ),
        (
            "llava_onevision",
            "siglip",
            {"vision_aspect_ratio": "pad"},
            "vision_aspect_ratio is 'pad', expected anyres_max_N with N from 1 to 999; correct config.json",
        ),
    ],
)
def test_configs_that_the_model_cannot_hold_are_named(
    model_type: str, tower: str, changes: dict[str, Any], words: str
) -> None:
    problem = get_architecture(model_type).config_problem(
        build_config(model_type, tower, **changes)
    )
    assert problem is not None
    assert words in problem


def test_a_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = save_tiny("llava_onevision", tmp_path / "tiny", router=False)

    def changed(name: str, key: str, value: Any) -> None:
        path = folder / name
        record = json.loads(path.read_text())
        (record if key in record else record["image_processor"])[key] = value
        path.write_text(json.dumps(record))

    changed("processor_config.json", "vision_aspect_ratio", "anyres_max_4")
    with pytest.raises(
        DataError,
        match="its processor has vision_aspect_ratio 'anyres_max_4' and the model's config 'anyres_max_3'; "
        "take the processor that belongs to the model",
    ):
        load_checkpoint(folder)
    changed("processor_config.json", "vision_aspect_ratio", "anyres_max_3")
    changed("processor_config.json", "image_grid_pinpoints", [[24, 24]])
    with pytest.raises(DataError, match=r"image_grid_pinpoints \[\[24, 24\]\] and the model's"):
        load_checkpoint(folder)
    changed("config.json", "image_grid_pinpoints", [[24, 30]])
    with pytest.raises(
        UnsupportedError,
        match=r"tiny: image_grid_pinpoints hold \[24, 30\], which is not made of whole tiles of 24 pixels; give multiples",
    ):
        load_checkpoint(folder)
