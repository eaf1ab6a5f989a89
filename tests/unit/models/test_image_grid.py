"""Which part of the image each image token stands for, measured on the real towers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from moir_edge.bundle import ImageGrid
from moir_edge.models import get_architecture

TEXT = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}


def llava(tower: str, strategy: str, size: int = 32, layer: Any = -2) -> Any:
    config = LlavaConfig(
        vision_config={
            **VISION,
            "model_type": f"{tower}_vision_model",
            "image_size": size,
            "patch_size": 8,
        },
        text_config=TEXT,
        image_token_id=3,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
    )
    return LlavaForConditionalGeneration(config)


def smolvlm(model_class: Any, config_class: Any) -> Any:
    vision = {**VISION, "image_size": 32, "patch_size": 4}
    config = config_class(
        vision_config=vision, text_config=TEXT, image_token_id=3, scale_factor=2, pad_token_id=0
    )
    return model_class(config)


MODELS = {
    "clip-default": lambda: llava("clip", "default"),
    "clip-full": lambda: llava("clip", "full"),
    "clip-layers": lambda: llava("clip", "default", layer=[-1, -2]),
    "siglip-default": lambda: llava("siglip", "default"),
    "siglip-full": lambda: llava("siglip", "full"),
    "siglip-layers": lambda: llava("siglip", "default", layer=[1, -1]),
    "siglip-rim": lambda: llava("siglip", "full", size=37),
    "smolvlm": lambda: smolvlm(SmolVLMForConditionalGeneration, SmolVLMConfig),
}


def features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return the image tokens of one tile, (tokens, hidden), from the model's own method."""
    if model.config.model_type == "smolvlm":
        pixels = pixels[None]
    with torch.no_grad():
        (tokens,) = model.get_image_features(pixel_values=pixels).pooler_output
    return torch.as_tensor(tokens)


@pytest.mark.parametrize("name", MODELS)
def test_a_token_stands_for_the_pixels_it_comes_from(name: str) -> None:
    """With attention silenced, a patch reaches one token only: the one whose cell it is."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for part, parameter in model.named_parameters():
        if "vision" in part and "out_proj" in part:
            parameter.data.zero_()
    architecture = get_architecture(model.config.model_type)
    size, grid = architecture.image_size(model.config), architecture.image_grid(model.config)
    blank = torch.zeros(1, 3, size, size)
    plain = features(model, blank)
    assert len(plain) == grid.tokens == architecture.tokens_per_tile(model.config)
    cell = round(grid.cell * size)
    for place in range(grid.side**2):
        row, column = divmod(place, grid.side)
        marked = blank.clone()
        marked[:, :, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = 1.0
        changed = (features(model, marked) != plain).any(dim=1).nonzero().flatten().tolist()
        token = place - grid.first
        assert changed == ([token] if token >= 0 else [])
    rim = blank.clone()
    rim[:, :, grid.side * cell :] = 1.0
    assert torch.equal(features(model, rim), plain)


@pytest.mark.parametrize("name", MODELS)
def test_an_old_manifest_gives_the_same_grid(name: str) -> None:
    model = MODELS[name]()
    grid = get_architecture(model.config.model_type).image_grid(model.config)
    known = ImageGrid.of_tokens(grid.tokens)
    assert (known.side, known.first) == (grid.side, grid.first)


@pytest.mark.parametrize("side", range(2, 40))
def test_a_number_of_tokens_tells_the_grid(side: int) -> None:
    for first in (-1, 0, 1):
        known = ImageGrid.of_tokens(side**2 - first)
        assert (known.side, known.first, known.tokens) == (side, first, side**2 - first)
