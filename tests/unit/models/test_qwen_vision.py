"""The towers of Qwen2-VL and Qwen2.5-VL as they are traced, against the models' own on images of several shapes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.vision_utils import get_vision_position_ids

from moir_edge.models.qwen_vision import QwenVision, WindowedQwenVision
from moir_edge.models.qwen_vl import Qwen2Vl, Qwen25Vl
from moir_edge.runtime.patch_grid import window_tables

# Smaller than a window, whole windows, and windows cut at one rim or both; windows have 2 blocks of 2 patches.
SIZES = [(2, 2), (4, 8), (6, 4), (2, 18), (10, 14)]
SHARED = {"num_heads": 2, "patch_size": 4}


def tower(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    found = kind(config).eval()
    for parameter in found.parameters():
        parameter.data += 0.15 * torch.randn(parameter.shape)
    return found


def inputs(found: Any, size: tuple[int, int]) -> tuple[Any, Any, Any]:
    grid = torch.tensor([[1, *size]])
    pixels = torch.randn(size[0] * size[1], 3 * 2 * 4 * 4)
    return pixels, grid, found.rotary_pos_emb(pixels, get_vision_position_ids(grid, 2))


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_features_are_those_of_qwen2(size: tuple[int, int]) -> None:
    config = Qwen2VLConfig(
        vision_config={**SHARED, "depth": 2, "embed_dim": 16, "hidden_size": 24}
    ).vision_config
    own = tower(Qwen2VisionTransformerPretrainedModel, config)
    pixels, grid, rotary = inputs(own, size)
    expected = own(pixels, grid, return_dict=True).pooler_output
    # float32 sums in another order; the values are of size 1.
    torch.testing.assert_close(QwenVision(own)(pixels, *rotary), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("full", [[], [1], [0, 1, 2]])
@torch.no_grad()
def test_features_are_those_of_qwen2_5(size: tuple[int, int], full: list[int]) -> None:
    config = windowed(fullatt_block_indexes=full)
    own = tower(Qwen2_5_VisionTransformerPretrainedModel, config)
    pixels, grid, rotary = inputs(own, size)
    windows = map(torch.from_numpy, window_tables(*size, 2, 2))
    expected = own(pixels, grid, return_dict=True).pooler_output
    found = WindowedQwenVision(own, full)(pixels, *rotary, *windows)
    # float32 sums in another order; the values are of size 1.
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def windowed(**further: Any) -> Any:
    vision = {**SHARED, "depth": 3, "hidden_size": 16, "intermediate_size": 32}
    sizes = {"out_hidden_size": 24, "window_size": 16}
    return Qwen2_5_VLConfig(vision_config={**vision, **sizes, **further}).vision_config


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"patch_size": [4, 4]},
            "vision_config has patch_size [4, 4], which export does not follow; expected one number",
        ),
        (
            {"in_channels": 1},
            "vision_config has in_channels 1; expected 3, for red, green and blue",
        ),
        (
            {"hidden_size": 20},
            "the vision tower has 2 heads in a width of 20; expected heads whose width is a multiple of 4",
        ),
        (
            {"window_size": 7},
            "vision_config has window_size 7, less than one block of 2 x 2 patches of 4 pixels; "
            "correct it in config.json",
        ),
        ({}, None),
    ],
)
def test_what_a_tower_cannot_be_is_one_line(change: dict[str, Any], text: str | None) -> None:
    config = SimpleNamespace(vision_config=windowed(**change))
    assert Qwen25Vl().config_problem(config) == text


def test_a_processor_of_other_patches_is_named() -> None:
    config = Qwen2VLConfig(vision_config={"patch_size": 16})
    images = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    assert Qwen2Vl().processor_problem({"image_processor": images}, config) is None
    assert Qwen2Vl().processor_problem(
        {"image_processor": {**images, "merge_size": 3}}, config
    ) == (
        "its image processor has merge_size 3 and the vision tower spatial_merge_size 2; "
        "take the processor that belongs to the model"
    )
