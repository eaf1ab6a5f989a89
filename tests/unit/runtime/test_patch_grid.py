"""Tests of the rotary tables and windows of towers over patches, against transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PixtralVisionConfig, Qwen2VLConfig
from transformers.models.pixtral.modeling_pixtral import PixtralVisionRotaryEmbedding
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLVisionRotaryEmbedding
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from moir_edge.runtime.patch_grid import (
    as_patches,
    as_picture,
    grid_places,
    rotary_tables,
    window_tables,
)

GRIDS = [(4, 6), (16, 18), (8, 8), (2, 2), (2, 40), (10, 14), (18, 2)]


@pytest.mark.parametrize("grid", GRIDS)
def test_patches_stand_block_by_block(grid: tuple[int, int]) -> None:
    expected = get_vision_position_ids(torch.tensor([[1, *grid]]), 2)
    np.testing.assert_array_equal(grid_places(*grid, 2), expected.numpy())


@pytest.mark.parametrize(("width", "base"), [(80, 10_000.0), (8, 10_000.0), (12, 500.0)])
def test_tables_are_those_of_the_tower(width: int, base: float) -> None:
    rope = {"rope_type": "axial", "rope_theta": base}
    config = Qwen2VLConfig(
        vision_config={"embed_dim": 2 * width, "num_heads": 2, "rope_parameters": rope}
    )
    tower = Qwen2VLVisionRotaryEmbedding(config.vision_config)
    places = grid_places(12, 90, 2)
    expected = tower(torch.zeros(1), torch.from_numpy(places))
    for ours, theirs in zip(rotary_tables(places, width, base), expected, strict=True):
        assert ours.dtype == np.float32
        # numpy and torch round a cosine differently in its last place.
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1.2e-7)


@pytest.mark.parametrize(("width", "base"), [(64, 10_000.0), (8, 10_000.0), (12, 500.0)])
def test_alternating_tables_are_those_of_pixtral(width: int, base: float) -> None:
    rope = {"rope_type": "axial", "rope_theta": base}
    tower = PixtralVisionRotaryEmbedding(
        PixtralVisionConfig(hidden_size=2 * width, num_attention_heads=2, rope_parameters=rope)
    )
    places = grid_places(12, 90, 2)
    expected = tower(torch.zeros(1), torch.from_numpy(places))
    ours = rotary_tables(places, width, base, alternating=True)
    for found, theirs in zip(ours, expected, strict=True):
        # numpy and torch round a cosine differently in its last place.
        np.testing.assert_allclose(found, theirs.numpy(), rtol=0, atol=1.2e-7)


def test_a_picture_comes_back_from_its_patches() -> None:
    picture = np.arange(3 * 24 * 12, dtype=np.float32).reshape(3, 24, 12)
    for patch, merge in ((2, 3), (6, 1), (1, 2)):
        patches = as_patches(picture, patch, merge, 1)
        np.testing.assert_array_equal(as_picture(patches, (24, 12), patch, merge), picture)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("window", [1, 3, 4])
def test_windows_are_those_of_the_tower(grid: tuple[int, int], window: int) -> None:
    order, bounds = get_vision_window_index(
        torch.tensor([[1, *grid]]), spatial_merge_size=2, window_size=28 * window, patch_size=14
    )
    patches = (order.numpy()[:, None] * 4 + np.arange(4)).reshape(-1)
    expected = np.split(patches, bounds.numpy()[1:-1])
    ours, held, places = window_tables(*grid, 2, window)
    assert len(ours) == len(expected)
    for found, mask, wanted in zip(ours, held, expected, strict=True):
        np.testing.assert_array_equal(found[mask == 1], wanted)
    np.testing.assert_array_equal(ours.reshape(-1)[places], np.arange(grid[0] * grid[1]))
    assert held.sum() == grid[0] * grid[1]
    assert not ours[held == 0].any()
