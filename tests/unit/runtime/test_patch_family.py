"""Qwen2-VL's and Qwen2.5-VL's part on the host, at the sizes of the models in use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moir_edge.bundle import ModelFacts
from moir_edge.errors import BundleError, DataError
from moir_edge.runtime.families import ImageTokens, family_of
from moir_edge.runtime.families.patches import PatchFamily
from moir_edge.runtime.image_processor import ImageShape, View

SETTINGS: dict[str, Any] = {
    "patch_size": 14,
    "frames": 2,
    "merge_size": 2,
    "head_dim": 80,
    "rotary_base": 10_000.0,
}
IDS = np.full((1, 5), 3, dtype=np.int64)


def family(model_type: str = "qwen2_5_vl", **change: Any) -> PatchFamily:
    settings = {**SETTINGS, **({"window": 4} if model_type == "qwen2_5_vl" else {}), **change}
    facts: dict[str, Any] = {
        "model_type": model_type,
        "image_token_id": 3,
        "family": {key: value for key, value in settings.items() if value != "left out"},
    }
    found = family_of(ModelFacts.model_construct(**facts))
    assert isinstance(found, PatchFamily)
    return found


def shape(rows: int, columns: int) -> ImageShape:
    return ImageShape(rows=rows, columns=columns, views=(View(kind="whole"),), size=(480, 640))


def test_tokens_of_models_in_use() -> None:
    # 644 x 476 pixels, as a picture of 640 x 480 is resized: 46 x 34 patches, four of them a token.
    assert family().token_count(shape(34, 46)) == 391
    text = family().placeholders(ImageTokens(image="<i>", special_tokens={}), shape(4, 6))
    assert text == "<i>" * 6


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl"])
def test_each_image_has_a_run_of_its_own(model_type: str) -> None:
    pixels = np.arange(48 * 2, dtype=np.float32).reshape(48, 2)
    feeds = list(family(model_type).vision_feeds(pixels, [shape(4, 6), shape(6, 4)], 16))
    assert [len(feed["pixel_values"]) for feed in feeds] == [24, 24]
    np.testing.assert_array_equal(np.concatenate([feed["pixel_values"] for feed in feeds]), pixels)
    windows = {"window_patches", "window_mask", "window_places"}
    more = windows if model_type == "qwen2_5_vl" else set()
    assert set(feeds[0]) == {"pixel_values", "rotary_cos", "rotary_sin"} | more
    assert not np.array_equal(feeds[0]["rotary_cos"], feeds[1]["rotary_cos"])


def test_a_sample_does_not_fit_the_windows() -> None:
    random = np.random.default_rng(0)
    images = [family().sample_image(random) for _ in range(8)]
    assert {(image.shape.rows, image.shape.columns) for image in images} == {(10, 12), (12, 10)}
    for image in images:
        assert image.pixel_values.shape == (120, 3 * 2 * 14 * 14)
        assert np.abs(image.pixel_values).max() <= 1


def test_what_a_processor_made_is_read() -> None:
    grids = np.array([[1, 2, 2], [1, 4, 4]])
    pixels = np.zeros((20, 8), np.float32)
    found = family().from_transformers({"pixel_values": pixels, "image_grid_thw": grids}, IDS)
    assert found is not None
    assert found[0] is pixels
    assert [(one.rows, one.columns, one.views[0].grid) for one in found[1]] == [
        (2, 2, (1, 1)),
        (4, 4, (2, 2)),
    ]
    assert family().from_transformers({}, IDS) is None


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (
            {"pixel_values": np.zeros((4, 8))},
            "pixel_values came without image_grid_thw; take both from one processor call",
        ),
        (
            {"pixel_values": np.zeros((4, 8)), "image_grid_thw": np.array([[1, 2, 2]])},
            "images of 1 image tokens for 5 places in the prompt and 4 patches; take ids, pixel_values and "
            "image_grid_thw from one processor call",
        ),
        (
            {"pixel_values_videos": np.zeros((4, 8))},
            "videos were given, and bundles take images; leave the videos out",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(inputs: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError) as caught:
        family().from_transformers(inputs, IDS)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("model_type", "change", "text"),
    [
        ("qwen2_vl", {"patch_size": 0}, ": patch_size: "),
        ("qwen2_vl", {"merge_size": 17}, ": merge_size: "),
        ("qwen2_vl", {"frames": 5}, ": frames: "),
        ("qwen2_vl", {"head_dim": 82}, ": head_dim: "),
        ("qwen2_vl", {"rotary_base": 0.5}, ": rotary_base: "),
        ("qwen2_vl", {"rotary_base": "left out"}, ": rotary_base: "),
        ("qwen2_5_vl", {"window": 65}, ": window: "),
        ("qwen2_5_vl", {"window": "left out"}, "is None, expected a number of blocks"),
        ("qwen2_vl", {"window": 4}, "is 4, expected none"),
    ],
)
def test_settings_that_cannot_hold_are_named(
    model_type: str, change: dict[str, Any], text: str
) -> None:
    with pytest.raises(BundleError) as caught:
        family(model_type, **change)
    message = str(caught.value)
    assert message.startswith("the manifest's model.family")
    assert text in message
    assert message.endswith("; export the bundle again")
    assert "\n" not in message
