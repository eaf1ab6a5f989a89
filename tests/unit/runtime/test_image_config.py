"""Tests of the settings of image processors."""

from __future__ import annotations

import math
from typing import Any

import pytest

from moir_edge.errors import BundleError
from moir_edge.runtime.image_processing import image_processor_from

TILING: dict[str, Any] = {"image_processor_type": "SmolVLMImageProcessor"}
CANVAS: dict[str, Any] = {"image_processor_type": "GotOcr2ImageProcessor"}
SQUARE: dict[str, Any] = {"image_processor_type": "Gemma3ImageProcessor"}
CROPPING: dict[str, Any] = {"image_processor_type": "CLIPImageProcessor"}
PIXTRAL: dict[str, Any] = {"image_processor_type": "PixtralImageProcessor"}


@pytest.mark.parametrize(
    ("config", "place"),
    [
        (
            TILING | {"size": {"longest_edge": -5}},
            "size.longest_edge must be a whole number from 1",
        ),
        (TILING | {"size": {"longest_edge": 10**9}}, "size.longest_edge must be a whole number"),
        (TILING | {"size": {"longest_edge": "5"}}, "size.longest_edge must be a whole number"),
        (TILING | {"size": {"height": 5}}, "size lacks longest_edge or height and width"),
        (TILING | {"size": [1, 2]}, "size is a list, expected an object with longest_edge"),
        (TILING | {"max_image_size": {}}, "max_image_size lacks longest_edge"),
        (TILING | {"resample": 77}, "resample must be a whole number from 0 to 5"),
        (TILING | {"resample": "x" * 10_000}, "resample must be a whole number"),
        (TILING | {"image_mean": [0.5, 0.5]}, "image_mean must be a list of three numbers"),
        (TILING | {"image_mean": 0.5}, "image_mean must be a list of three numbers"),
        (TILING | {"image_mean": [0, 1, "a"]}, "image_mean[2] must be a finite number"),
        (TILING | {"image_std": [1, 1, 0]}, "image_std[2] is 0, and pixels are divided by it"),
        (TILING | {"image_std": [1, 1, math.nan]}, "image_std[2] must be a finite number"),
        (TILING | {"rescale_factor": math.inf}, "rescale_factor must be a finite number"),
        (CANVAS | {"max_patches": 0}, "max_patches must be a whole number from 1 to 1024"),
        (CANVAS | {"size": 5}, "size is a number, expected an object with height and width"),
        (CROPPING | {"size": {"shortest_edge": 0}}, "size.shortest_edge must be a whole number"),
        (CROPPING | {"crop_size": {"height": "a", "width": 1}}, "crop_size.height must be"),
        (SQUARE | {"do_pan_and_scan": True}, "do_pan_and_scan must be false, crops of an image"),
        (SQUARE | {"size": {"height": 0, "width": 4}}, "size.height must be a whole number from 1"),
        (CROPPING | {"do_pad": "maybe"}, "do_pad must be true or false"),
        (PIXTRAL | {"patch_size": 257}, "patch_size must be a whole number from 1 to 256"),
        (PIXTRAL | {"patch_size": {"height": 4}}, "patch_size must be a whole number from 1"),
        (
            PIXTRAL | {"patch_size": {"height": 4, "width": 8}},
            "patch_size must have equal height and width",
        ),
        (PIXTRAL | {"merge_size": 0}, "merge_size must be a whole number from 1 to 16"),
        (PIXTRAL | {"do_center_crop": True}, "do_center_crop must be false, crops of an image"),
        (PIXTRAL | {"size": {"longest_edge": 10**9}}, "size.longest_edge must be a whole number"),
    ],
)
def test_settings_that_cannot_hold_are_named(config: dict[str, Any], place: str) -> None:
    with pytest.raises(BundleError) as caught:
        image_processor_from(config)
    text = str(caught.value)
    assert text.startswith(f"the image processor's {place}")
    assert "\n" not in text
    assert len(text) < 300


def test_sizes_as_numbers_are_those_of_squares() -> None:
    processor = image_processor_from(CROPPING | {"size": 32, "crop_size": 32})
    assert processor.config["size"] == 32
