"""Mistral 3's tower, merger and projector as they are traced, against the model's own on pictures of several shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Mistral3Config, Mistral3Model

from moir_edge.models import get_architecture
from moir_edge.models.mistral3 import Mistral3
from moir_edge.models.pixtral_vision import PixtralVision
from moir_edge.runtime.image_processor import ImageShape, View
from moir_edge.runtime.patch_grid import as_patches, grid_places, rotary_tables
from moir_edge.runtime.processor import ModelInputs

VISION = {
    "model_type": "pixtral",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 4,
}
TEXT = {
    "model_type": "mistral",
    "vocab_size": 32,
    "hidden_size": 24,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
# (rows, columns) of tokens; a picture of one token is split wrongly by the model itself.
SIZES = [(2, 1), (1, 5), (4, 3), (7, 2)]


def config(*, merge: int = 2, layer: Any = -1, **vision: Any) -> Any:
    return Mistral3Config(
        vision_config={**VISION, **vision},
        text_config=TEXT,
        image_token_index=3,
        spatial_merge_size=merge,
        vision_feature_layer=layer,
        multimodal_projector_bias=True,
    )


def model(**options: Any) -> Any:
    torch.manual_seed(0)
    found = Mistral3Model(config(**options)).eval()
    for parameter in found.parameters():
        parameter.data += 0.15 * torch.randn(parameter.shape)
    return found


@pytest.mark.parametrize(("merge", "layer"), [(2, -1), (3, [-2]), (1, 1)])
@torch.no_grad()
def test_one_run_for_each_picture_gives_what_the_model_gives_for_all(
    merge: int, layer: Any
) -> None:
    own = model(merge=merge, layer=layer)
    block = 4 * merge
    pictures = [torch.randn(3, rows * block, columns * block) for rows, columns in SIZES]
    sizes = torch.tensor([picture.shape[1:] for picture in pictures])
    together = torch.zeros(len(SIZES), 3, *sizes.max(0).values.tolist())
    for index, picture in enumerate(pictures):
        together[index, :, : picture.shape[1], : picture.shape[2]] = picture
    expected = own.get_image_features(together, sizes).pooler_output

    tower, projector = own.vision_tower, own.multi_modal_projector
    graph = PixtralVision(tower, projector, Mistral3().blocks(own.config) or 0)
    for picture, wanted, (rows, columns) in zip(pictures, expected, SIZES, strict=True):
        patches = torch.from_numpy(as_patches(picture.numpy(), 4, merge, 1))
        places = grid_places(rows * merge, columns * merge, merge)
        rotary = map(torch.from_numpy, rotary_tables(places, 8, 10_000.0, alternating=True))
        # float32 sums in another order; the values are of size 1.
        torch.testing.assert_close(graph(patches, *rotary), wanted, atol=1e-5, rtol=1e-5)


def test_patches_become_pictures_that_are_filled_up() -> None:
    pictures = [
        np.random.default_rng(rows).standard_normal((3, rows * 8, columns * 8), dtype=np.float32)
        for rows, columns in SIZES
    ]
    inputs = ModelInputs(
        input_ids=np.zeros((1, 1), np.int64),
        attention_mask=np.ones((1, 1), np.int64),
        pixel_values=np.concatenate([as_patches(picture, 4, 2, 1) for picture in pictures]),
        prompts=(),
        images=tuple(
            ImageShape(
                rows=2 * rows,
                columns=2 * columns,
                views=(View(kind="whole", grid=(rows, columns)),),
                size=(1, 1),
            )
            for rows, columns in SIZES
        ),
    )
    found = Mistral3().torch_inputs(inputs)
    assert found["image_sizes"].tolist() == [[rows * 8, columns * 8] for rows, columns in SIZES]
    assert found["pixel_values"].shape == (4, 3, 56, 40)
    for image, picture in zip(found["pixel_values"].numpy(), pictures, strict=True):
        _, height, width = picture.shape
        np.testing.assert_array_equal(image[:, :height, :width], picture)
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"patch_size": [4, 4]},
            "vision_config has patch_size [4, 4], which export does not follow; expected one number",
        ),
        (
            {"num_channels": 1},
            "vision_config has num_channels 1; expected 3, for red, green and blue",
        ),
        (
            {"hidden_size": 20},
            "the vision tower has 2 heads of 10 in a width of 20; expected heads that share the width, in multiples of 4",
        ),
        (
            {"head_dim": 12},
            "the vision tower has 2 heads of 12 in a width of 16; expected heads that share the width, in multiples of 4",
        ),
        (
            {"layer": [-1, -2]},
            "vision_feature_layer is [-1, -2], expected one block of the tower's 3: from 1, or from -1 at the last; "
            "correct config.json",
        ),
        (
            {"layer": -4},
            "vision_feature_layer is -4, expected one block of the tower's 3: from 1, or from -1 at the last; "
            "correct config.json",
        ),
        ({}, None),
    ],
)
def test_what_a_config_cannot_be_is_one_line(options: dict[str, Any], text: str | None) -> None:
    assert get_architecture("mistral3").config_problem(config(**options)) == text


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (
            {"spatial_merge_size": 1},
            "its processor has patch_size and spatial_merge_size (4, 1) and the model's config (4, 2); "
            "take the processor that belongs to the model",
        ),
        (
            {"image_break_token": "<row>"},
            "its processor has image_break_token '<row>', expected '[IMG_BREAK]'; correct processor_config.json",
        ),
        ({"image_end_token": "[IMG_END]"}, None),
    ],
)
def test_a_processor_of_another_model_is_one_line(record: dict[str, Any], text: str | None) -> None:
    given = {"patch_size": 4, "spatial_merge_size": 2, "image_processor": {}, **record}
    assert get_architecture("mistral3").processor_problem(given, config()) == text
