"""Qwen3-VL's tower as it is traced, against the model's own on images of several shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from moir_edge.models.qwen3_vision import Qwen3Vision


@pytest.fixture(scope="module")
def tower() -> Any:
    torch.manual_seed(0)
    config = Qwen3VLVisionConfig(
        depth=3,
        hidden_size=16,
        intermediate_size=32,
        num_heads=2,
        patch_size=4,
        out_hidden_size=24,
        num_position_embeddings=16,
        deepstack_visual_indexes=[2, 0],
    )
    return Qwen3VLVisionModel(config).eval()


@pytest.mark.parametrize("size", [(2, 2), (6, 4), (2, 18)])
@torch.no_grad()
def test_features_and_taps_are_those_of_the_model(tower: Any, size: tuple[int, int]) -> None:
    grid = torch.tensor([[1, *size]])
    pixels = torch.randn(size[0] * size[1], 3 * 2 * 4 * 4)
    tables = get_vision_interpolation_indices_and_weights(
        grid, num_grid_per_side=4, align_corners=True, spatial_merge_size=2
    )
    rotary = tower.rotary_pos_emb(pixels, get_vision_position_ids(grid, 2))

    features, taps = Qwen3Vision(tower)(pixels, *tables, *rotary)
    expected = tower(pixels, grid, return_dict=True)

    # float32 sums in another order; the values are of size 1.
    torch.testing.assert_close(features, expected.pooler_output, atol=1e-5, rtol=0)
    # The model hands its taps out in the order of the blocks, each through the merger that the config names.
    torch.testing.assert_close(
        taps, torch.stack(expected.deepstack_features, dim=1), atol=1e-5, rtol=0
    )
