"""Mistral 3's part on the host: rows with their ends, pictures that were filled up, settings that must fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moir_edge.bundle import ModelFacts
from moir_edge.errors import BundleError, DataError
from moir_edge.runtime.families import Family, ImageTokens, family_of
from moir_edge.runtime.image_processor import ImageShape, View

SETTINGS: dict[str, Any] = {
    "patch_size": 2,
    "frames": 1,
    "merge_size": 2,
    "head_dim": 64,
    "rotary_base": 10_000.0,
}
IDS = np.full((1, 8), 3, dtype=np.int64)


def family(**change: Any) -> Family:
    facts: dict[str, Any] = {
        "model_type": "mistral3",
        "image_token_id": 3,
        "family": {**SETTINGS, **change},
    }
    return family_of(ModelFacts.model_construct(**facts))


def shape(rows: int, columns: int) -> ImageShape:
    return ImageShape(rows=rows, columns=columns, views=(View(kind="whole"),), size=(480, 640))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((4, 6), "<i><i><i>[IMG_BREAK]<i><i><i>[IMG_END]"),
        ((2, 4), "<i><i>[IMG_END]"),
        ((6, 2), "<i>[IMG_BREAK]<i>[IMG_BREAK]<i>[IMG_END]"),
    ],
)
def test_each_row_has_its_end(size: tuple[int, int], text: str) -> None:
    tokens = ImageTokens(image="<i>", special_tokens={})
    assert family().placeholders(tokens, shape(*size)) == text
    assert family().token_count(shape(*size)) == text.count("<i>")


def test_the_towers_patches_stand_above_the_image_processors() -> None:
    found = family().image_settings({"patch_size": {"height": 14, "width": 14}, "size": 5})
    assert found == {"patch_size": 2, "merge_size": 2, "size": 5}


def test_pictures_that_were_filled_up_are_read() -> None:
    pixels = np.zeros((2, 3, 12, 8), np.float32)
    pixels[0, :, :4, :8], pixels[1, 0] = 1, np.arange(96).reshape(12, 8)
    sizes = np.array([[4, 8], [12, 8]])
    found = family().from_transformers({"pixel_values": pixels, "image_sizes": sizes}, IDS)
    assert found is not None
    patches, images = found
    assert [(image.rows, image.columns, image.views[0].grid) for image in images] == [
        (2, 4, (1, 2)),
        (6, 4, (3, 2)),
    ]
    assert (patches[:8] == 1).all()
    # The first block of the second picture: red of four patches of 2 x 2 pixels, in rows of 8.
    assert patches[8:12, :4].tolist() == [
        [0, 1, 8, 9],
        [2, 3, 10, 11],
        [16, 17, 24, 25],
        [18, 19, 26, 27],
    ]
    assert family().from_transformers({}, IDS) is None


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        (None, "pixel_values came without image_sizes; take both from one processor call"),
        (
            [[4, 8]],
            "1 image_sizes of 2 image tokens for 8 places in the prompt and 1 images; take ids, pixel_values and "
            "image_sizes from one processor call",
        ),
        (
            [[4, 6]],
            "image_sizes has an image of 4x6 pixels in pixel_values of 4x8, expected multiples of 4 that fit in; "
            "take both from one processor call",
        ),
        (
            [[8, 8]],
            "image_sizes has an image of 8x8 pixels in pixel_values of 4x8, expected multiples of 4 that fit in; "
            "take both from one processor call",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(sizes: Any, text: str) -> None:
    inputs = {"pixel_values": np.zeros((1, 3, 4, 8), np.float32)}
    if sizes is not None:
        inputs["image_sizes"] = np.array(sizes)
    with pytest.raises(DataError) as caught:
        family().from_transformers(inputs, IDS)
    assert str(caught.value) == text


@pytest.mark.parametrize("change", [{"frames": 2}, {"window": 2}, {"merge_size": 0}])
def test_settings_of_another_tower_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=f"cannot be that of a mistral3: {next(iter(change))}: "):
        family(**change)
