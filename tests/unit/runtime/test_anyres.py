"""Sizes and token grids against the functions of transformers, over pictures of every shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LlavaNextConfig,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionProcessor,
)
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from moir_edge.errors import DataError
from moir_edge.runtime.anyres import best_resolution, fitted_size, packed, token_grid

NEXT = LlavaNextConfig().image_grid_pinpoints
ONEVISION = LlavaOnevisionConfig().image_grid_pinpoints
# Portrait, landscape, square, one pixel, and lines: (height, width).
SHAPES = [
    (640, 480),
    (480, 640),
    (500, 500),
    (1, 1),
    (1, 5000),
    (5000, 1),
    (90, 2000),
    (2000, 90),
    (4000, 3000),
    (7, 3),
    (336, 672),
    (1151, 1153),
]
RANDOM = [tuple(map(int, row)) for row in np.random.default_rng(0).integers(1, 3000, (200, 2))]


@pytest.mark.parametrize("resolutions", [NEXT, ONEVISION, [[8, 16], [16, 8]]])
def test_the_canvas_and_the_size_on_it_are_those_of_transformers(resolutions: Any) -> None:
    for size in SHAPES + RANDOM:
        canvas = select_best_resolution(size, resolutions)
        assert best_resolution(size, [tuple(pair) for pair in resolutions]) == canvas
        image = np.broadcast_to(np.uint8(0), (3, *size))
        assert fitted_size(size, canvas) == get_patch_output_size(image, canvas, "channels_first")


def test_tokens_are_counted_as_llava_next_counts_them() -> None:
    counter: Any = LlavaNextProcessor.__new__(LlavaNextProcessor)
    for size in SHAPES + RANDOM:
        canvas = select_best_resolution(size, NEXT)
        grid = token_grid(size, canvas, tile=336, side=24)
        scales = (canvas[0] // 336, canvas[1] // 336)
        cells, ends = counter._get_unpadded_features(*size, 24, 24, *scales)
        assert (grid.tokens, grid.rows) == (cells + ends, ends)


@pytest.mark.parametrize("most", [9, 2])
def test_tokens_are_counted_as_llava_onevision_counts_them(most: int) -> None:
    counter: Any = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
    counter.vision_aspect_ratio = f"anyres_max_{most}"
    shrunk = 0
    for size in SHAPES + RANDOM:
        canvas = select_best_resolution(size, ONEVISION)
        grid = token_grid(size, canvas, tile=384, side=27, most_tiles=most)
        scales = (canvas[0] // 384, canvas[1] // 384)
        cells, ends = counter._get_unpadded_features(*size, 27, 27, *scales)
        assert (grid.tokens, grid.rows) == (cells + ends, ends)
        shrunk += (grid.rows, grid.columns) != grid.kept
    assert shrunk > 20


def _config(config: type, tile: int, patch: int, pinpoints: Any) -> Any:
    return config(
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": tile,
            "patch_size": patch,
        },
        image_grid_pinpoints=pinpoints,
    )


def test_rows_are_packed_as_llava_next_packs_them() -> None:
    pinpoints = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
    model: Any = LlavaNextModel.__new__(LlavaNextModel)
    model.__dict__["config"] = _config(LlavaNextConfig, 24, 8, pinpoints)
    for size in SHAPES + RANDOM[:20]:
        grid, tiles, newline = _random(size, pinpoints, tile=24, side=3)
        (theirs,), _ = LlavaNextModel.pack_image_features(
            model, [tiles], torch.tensor([size]), "full", newline
        )
        ours = packed(tiles[1:].numpy(), newline.numpy(), grid)
        np.testing.assert_array_equal(ours, theirs[9:].numpy())
        np.testing.assert_array_equal(tiles[0].numpy(), theirs[:9].numpy())


@pytest.mark.parametrize("most", [1, 4, 9])
def test_rows_are_packed_as_llava_onevision_packs_them(most: int) -> None:
    pinpoints = [[height, width] for height in (24, 48, 96, 144) for width in (24, 48, 96, 144)]
    model: Any = LlavaOnevisionModel.__new__(LlavaOnevisionModel)
    model.__dict__["config"] = _config(LlavaOnevisionConfig, 24, 4, pinpoints)
    shrunk = 0
    for size in SHAPES + RANDOM[:20]:
        grid, tiles, newline = _random(size, pinpoints, tile=24, side=6, most_tiles=most)
        (theirs,), _ = LlavaOnevisionModel.pack_image_features(
            model, [tiles], torch.tensor([size]), newline, f"anyres_max_{most}"
        )
        ours = packed(tiles[1:].numpy(), newline.numpy(), grid)
        assert len(ours) == grid.tokens
        # A place among 36 rows is rounded to 2e-6 in float32, in torch elsewhere than here; neighbours differ by up to 5.
        np.testing.assert_allclose(ours, theirs[36:].numpy(), rtol=0, atol=1e-5)
        shrunk += (grid.rows, grid.columns) != grid.kept
    assert shrunk > 5


def _random(size: Any, pinpoints: Any, **layout: Any) -> Any:
    canvas = best_resolution(size, [tuple(pair) for pair in pinpoints])
    grid = token_grid(size, canvas, **layout)
    torch.manual_seed(sum(size))
    count = grid.tiles[0] * grid.tiles[1]
    return grid, torch.randn(count + 1, grid.side**2, 5), torch.randn(5)


def test_the_box_is_what_the_kept_tokens_show() -> None:
    # On a canvas of 48x48 the picture is 48 wide and 24 high, rows 12 to 36: all of it, and no more.
    grid = token_grid((20, 40), (48, 48), tile=24, side=6)
    assert (grid.first, grid.kept) == ((3, 0), (6, 12))
    assert grid.box == (0, 0, 1, 1)
    # A picture of 48x16 px keeps half a token of padding above and below.
    grid = token_grid((16, 48), (24, 48), tile=24, side=3)
    assert (grid.first, grid.kept) == ((0, 0), (3, 6))
    assert grid.box == pytest.approx((0, -4 / 16, 1, 20 / 16))
    for size in SHAPES:
        left, top, right, bottom = token_grid(size, (48, 24), tile=24, side=6).box
        assert left <= right
        assert top <= bottom


def test_a_line_may_leave_row_ends_alone() -> None:
    grid = token_grid((5000, 1), (48, 24), tile=24, side=6)
    assert (grid.rows, grid.columns, grid.tokens) == (12, 0, 12)
    newline = np.arange(4, dtype=np.float32)
    ours = packed(np.ones((2, 36, 4), np.float32), newline, grid)
    np.testing.assert_array_equal(ours, np.tile(newline, (12, 1)))


def test_a_shape_that_interpolation_empties_is_refused() -> None:
    with pytest.raises(
        DataError,
        match="an image of 100x10 pixels leaves the model 3x0 image tokens; crop it to a less extreme shape",
    ):
        token_grid((10, 100), (2, 40), tile=2, side=1, most_tiles=1)


def test_each_row_of_pixels_keeps_its_side() -> None:
    """Where height and width are exchanged somewhere, a mark in one corner moves to another."""
    for size, canvas in (((40, 20), (48, 24)), ((20, 40), (24, 48))):
        grid = token_grid(size, canvas, tile=24, side=2)
        tiles = np.zeros((2, 4, 1), np.float32)
        tiles[0, 1] = 1  # the upper right token of the first tile
        marked = packed(tiles, np.zeros(1, np.float32), grid).reshape(grid.rows, grid.columns + 1)
        assert [tuple(map(int, place)) for place in np.argwhere(marked == 1)] == [(0, 1)]
        assert (grid.rows, grid.columns) == (size[0] // 10, size[1] // 10)
