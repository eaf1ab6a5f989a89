"""Interpolated positions against transformers' own, number for number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from moir_edge.runtime.interpolation import interpolation_tables


@pytest.mark.parametrize("size", [(2, 2), (2, 34), (26, 4), (48, 48), (70, 122)])
@pytest.mark.parametrize("side", [1, 4, 48])
def test_tables_are_those_of_transformers(size: tuple[int, int], side: int) -> None:
    grid = torch.tensor([[1, *size]])
    places = get_vision_position_ids(grid, 2).numpy()

    entries, shares = interpolation_tables(places, size, side)
    expected = get_vision_interpolation_indices_and_weights(
        grid, num_grid_per_side=side, align_corners=True, spatial_merge_size=2
    )

    np.testing.assert_array_equal(entries, expected[0].numpy())
    np.testing.assert_array_equal(shares, expected[1].numpy())
    assert shares.dtype == np.float32
