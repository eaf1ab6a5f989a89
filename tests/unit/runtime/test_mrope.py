"""Tests of M-RoPE positions, against the rule of the models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from moir_edge.errors import ShapeError
from moir_edge.runtime.mrope import mrope_positions

IMAGE = 3
Part = int | tuple[int, int]  # so many text tokens, or an image of so many rows and columns


def model(model_type: str) -> Any:
    """Return a model of the smallest size, for its rule of positions alone."""
    import transformers

    name = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}[model_type]
    vision = {"depth": 1, "num_heads": 1, "hidden_size": 8}
    vision |= {"embed_dim": 8} if model_type == "qwen2_vl" else {"out_hidden_size": 8}
    config = getattr(transformers, f"{name}Config")(
        vision_config=vision,
        text_config={
            "vocab_size": 8,
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
        },
        image_token_id=IMAGE,
    )
    return getattr(transformers, f"{name}Model")(config)


def batch(rows: list[list[Part]]) -> tuple[Any, Any, list[tuple[int, int]]]:
    """Return ids and mask of rows padded on the left, and the grids of their images."""
    ids = [
        [
            token
            for part in row
            for token in ([1] * part if isinstance(part, int) else [IMAGE] * (part[0] * part[1]))
        ]
        for row in rows
    ]
    width = max(map(len, ids))
    padded = np.array([[0] * (width - len(row)) + row for row in ids])
    mask = np.array([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    return padded, mask, [part for row in rows for part in row if isinstance(part, tuple)]


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize(
    "rows",
    [
        [[5]],
        [[3], [8]],
        [[4, (2, 3), 6]],
        [[(5, 2), 1]],
        [[2, (1, 1)]],
        [[2, (2, 7), 1, (6, 1), 4], [1, (1, 3), 2], [5]],
        [[1, (3, 3), 1, (2, 2), 1, (1, 9), 3], [2, (4, 4), 30]],
    ],
)
def test_positions_are_those_of_the_model(model_type: str, rows: list[list[Part]]) -> None:
    ids, mask, grids = batch(rows)
    positions, following = mrope_positions(ids == IMAGE, mask, grids)
    expected, delta = model(model_type).get_rope_index(
        torch.from_numpy(ids),
        mm_token_type_ids=torch.from_numpy((ids == IMAGE).astype(np.int64)),
        image_grid_thw=torch.tensor(
            [[1, 2 * height, 2 * width] for height, width in grids]
        ).reshape(-1, 3),
        attention_mask=torch.from_numpy(mask),
    )
    np.testing.assert_array_equal(positions, expected.numpy())
    np.testing.assert_array_equal(following, mask.sum(axis=1) + delta.numpy()[:, 0])


def test_images_may_stand_side_by_side() -> None:
    ids, mask, grids = batch([[1, (2, 2), (1, 3), 1]])
    positions, following = mrope_positions(ids == IMAGE, mask, grids)
    assert positions[0].tolist() == [[0, 1, 1, 1, 1, 3, 3, 3, 6]]
    assert positions[1].tolist() == [[0, 1, 1, 2, 2, 3, 3, 3, 6]]
    assert positions[2].tolist() == [[0, 1, 2, 1, 2, 3, 4, 5, 6]]
    assert following.tolist() == [7]


@pytest.mark.parametrize(
    ("grids", "text"),
    [
        ([], "the prompt has 4 image tokens in a row, and no image is left"),
        ([(2, 3)], "the prompt has 4 image tokens in a row, and the image has 2 x 3"),
        ([(1, 2)], "the prompt has 2 image tokens in a row, and no image is left"),
        (
            [(2, 2), (1, 1)],
            "2 images were given and the prompts hold image tokens for 1 of them",
        ),
    ],
)
def test_other_tokens_than_the_images_have_are_one_line(
    grids: list[tuple[int, int]], text: str
) -> None:
    ids, mask, _ = batch([[1, (2, 2), 1]])
    with pytest.raises(ShapeError) as caught:
        mrope_positions(ids == IMAGE, mask, grids)
    assert str(caught.value) == f"{text}; expand each image's placeholder to its number of tokens"
