"""Tests of pictures as patches, against transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.pixtral.image_processing_pil_pixtral import (
    PixtralImageProcessorPil,
    get_resize_output_image_size,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from moir_edge.errors import BundleError, DataError
from moir_edge.runtime import image_geometry
from moir_edge.runtime.image_processing import image_processor_from
from moir_edge.runtime.patch_grid import as_picture

PATCHES: dict[str, Any] = {"image_processor_type": "Qwen2VLImageProcessor"}
PIXTRAL: dict[str, Any] = {"image_processor_type": "PixtralImageProcessor"}
SIZES = [(37, 91), (200, 150), (3, 120), (500, 90), (1, 1), (64, 65), (25, 25), (1, 200)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": {"shortest_edge": 64, "longest_edge": 4096}, "patch_size": 4},
        {"min_pixels": 100, "max_pixels": 3000, "patch_size": 4, "merge_size": 3},
        {"size": {"shortest_edge": 1, "longest_edge": 1}, "patch_size": 8},
        {"temporal_patch_size": 1, "resample": 2},
        {"do_normalize": False},
        {"do_rescale": False},
    ],
)
def test_pixels_equal_transformers_bit_for_bit(
    options: dict[str, Any], picture: Callable[..., Image.Image]
) -> None:
    theirs = Qwen2VLImageProcessorPil(**options)
    ours = image_processor_from(json.loads(json.dumps(theirs.to_dict())))
    for height, width in SIZES:
        expected = theirs(picture(height, width), return_tensors="np")
        processed = ours(picture(height, width))
        np.testing.assert_array_equal(processed.pixel_values, expected["pixel_values"])
        assert [[1, processed.shape.rows, processed.shape.columns]] == expected[
            "image_grid_thw"
        ].tolist()
        merge = theirs.merge_size
        assert [view.grid for view in processed.shape.views] == [
            (processed.shape.rows // merge, processed.shape.columns // merge)
        ]


def test_published_settings_name_their_bounds_in_two_ways(
    picture: Callable[..., Image.Image],
) -> None:
    stated = {"min_pixels": 3136, "max_pixels": 40_000}
    ours = image_processor_from({**PATCHES, **stated})
    expected = Qwen2VLImageProcessorPil(**stated)(picture(400, 300), return_tensors="np")
    np.testing.assert_array_equal(ours(picture(400, 300)).pixel_values, expected["pixel_values"])
    both = image_processor_from(
        {**PATCHES, **stated, "size": {"shortest_edge": 5, "longest_edge": 7}}
    )
    assert both.config["size"] == {"shortest_edge": 3136, "longest_edge": 40_000}


def test_sizes_equal_those_of_transformers() -> None:
    random = np.random.default_rng(0)
    for _ in range(500):
        height, width = (int(side) for side in random.integers(20, 3000, 2))
        factor = int(random.integers(1, 60))
        bounds = (int(random.integers(1, 10**5)), int(random.integers(10**5, 10**7)))
        ours = image_geometry.smart_resize(height, width, factor, *bounds)
        assert ours == smart_resize(height, width, factor, *bounds)


def test_a_picture_that_is_not_resized_is_made_of_whole_blocks(
    picture: Callable[..., Image.Image],
) -> None:
    processor = image_processor_from({**PATCHES, "do_resize": False})
    assert processor(picture(56, 84)).shape.views[0].grid == (2, 3)
    with pytest.raises(DataError) as caught:
        processor(picture(56, 85))
    assert str(caught.value) == (
        "an image of 85x56 pixels is not made of whole blocks of 28x28, and the image processor does not resize "
        "(do_resize is false); resize the image, or set do_resize to true"
    )


def test_a_very_long_picture_is_one_line(picture: Callable[..., Image.Image]) -> None:
    with pytest.raises(DataError) as caught:
        image_processor_from(PATCHES)(picture(1, 201))
    assert str(caught.value) == (
        "an image of 201x1 pixels is more than 200 times as long as it is wide, and the model takes none such; "
        "crop it to a less extreme shape"
    )


def test_an_image_beyond_the_context_is_one_line(picture: Callable[..., Image.Image]) -> None:
    processor = image_processor_from(PATCHES, max_tiles=11)
    assert processor(picture(84, 84)).shape.views[0].grid == (3, 3)
    with pytest.raises(DataError) as caught:
        processor(picture(84, 112))
    assert str(caught.value) == (
        "an image of 112x84 pixels, as it is resized, has 12 image tokens, and the model's context has room for 11; "
        "give a smaller image, or lower size.longest_edge, the largest number of pixels, in the image processor's "
        "settings"
    )


def test_a_least_size_beyond_all_measure_is_refused(picture: Callable[..., Image.Image]) -> None:
    size = {"shortest_edge": 1 << 28, "longest_edge": 1 << 28}
    with pytest.raises(DataError, match="an image of 20x30 pixels would become 13384x20076, which"):
        image_processor_from({**PATCHES, "size": size})(picture(30, 20))


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"size": 5}, "size is a number, expected an object with shortest_edge and longest_edge"),
        ({"size": {"shortest_edge": 5}}, "size.longest_edge must be a whole number from 1 to"),
        ({"size": {"longest_edge": 5}}, "size.shortest_edge must be a whole number from 1 to"),
        ({"max_pixels": 1e9}, "size.longest_edge must be a whole number from 1 to 268435456"),
        ({"min_pixels": 0}, "size.shortest_edge must be a whole number from 1 to 268435456"),
        (
            {"min_pixels": 9, "max_pixels": 5},
            "size.shortest_edge, the least number of pixels, is above longest_edge, the largest",
        ),
        ({"patch_size": [14, 14]}, "patch_size must be a whole number from 1 to 256"),
        ({"merge_size": 0}, "merge_size must be a whole number from 1 to 16"),
        ({"temporal_patch_size": 64}, "temporal_patch_size must be a whole number from 1 to 4"),
    ],
)
def test_settings_that_cannot_hold_are_named(config: dict[str, Any], place: str) -> None:
    with pytest.raises(BundleError) as caught:
        image_processor_from({**PATCHES, **config})
    text = str(caught.value)
    assert text.startswith(f"the image processor's {place}")
    assert "\n" not in text


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patch_size": {"height": 28, "width": 28}, "size": {"longest_edge": 1540}},
        {"patch_size": 4, "size": {"longest_edge": 63}},
        {"size": {"height": 40, "width": 300}, "resample": 2},
        {"size": 100, "do_normalize": False},
        {"do_rescale": False, "do_pad": False},
    ],
)
def test_pixels_of_pixtral_equal_transformers_bit_for_bit(
    options: dict[str, Any], picture: Callable[..., Image.Image]
) -> None:
    theirs = PixtralImageProcessorPil(**options)
    ours = image_processor_from(json.loads(json.dumps(theirs.to_dict())))
    for height, width in SIZES[:-1]:  # of a line nothing is left; see below
        (expected,) = theirs(picture(height, width), return_tensors="np")["pixel_values"]
        processed = ours(picture(height, width))
        _, *size = expected.shape
        patch = size[0] // processed.shape.rows
        assert size == [processed.shape.rows * patch, processed.shape.columns * patch]
        found = as_picture(processed.pixel_values, (size[0], size[1]), patch, 1)
        np.testing.assert_array_equal(found, expected)


def test_sizes_equal_those_of_pixtral() -> None:
    random = np.random.default_rng(0)
    for _ in range(500):
        height, width, block, edge = map(int, random.integers([4, 4, 1, 1], [4000, 4000, 60, 3000]))
        image = np.empty((height, width, 3), np.uint8)
        expected = get_resize_output_image_size(image, (edge, edge + 7), (block, block))
        found = image_geometry.blocks_within(height, width, block, (edge, edge + 7))
        assert found == expected


def test_blocks_of_pixtral_are_those_that_its_processor_asks_for(
    picture: Callable[..., Image.Image],
) -> None:
    """The blocks of two patches are one patch of twice the side to the image processor."""
    settings = {**PIXTRAL, "patch_size": 14, "merge_size": 2}
    processed = image_processor_from(settings)(picture(100, 150))
    assert (processed.shape.rows, processed.shape.columns) == (8, 12)
    assert processed.shape.views[0].grid == (4, 6)
    whole = PixtralImageProcessorPil(patch_size=28)(picture(100, 150), return_tensors="np")
    found = as_picture(processed.pixel_values, (112, 168), 14, 2)
    np.testing.assert_array_equal(found, whole["pixel_values"][0])


def test_a_line_that_would_vanish_is_refused(picture: Callable[..., Image.Image]) -> None:
    processor = image_processor_from({**PIXTRAL, "size": {"longest_edge": 100}})
    with pytest.raises(DataError) as caught:
        processor(picture(1, 200))
    assert str(caught.value) == (
        "an image of 200x1 pixels is less than one pixel wide once it is no longer than 100; "
        "crop it to a less extreme shape"
    )


def test_more_tokens_of_pixtral_than_the_context_holds(picture: Callable[..., Image.Image]) -> None:
    processor = image_processor_from(PIXTRAL, max_tiles=11)
    with pytest.raises(DataError) as caught:
        processor(picture(48, 64))
    assert str(caught.value) == (
        "an image of 64x48 pixels, as it is resized, has 12 image tokens, and the model's context has room for 11; "
        "give a smaller image, or lower size in the image processor's settings"
    )
