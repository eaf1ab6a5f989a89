"""Tests of the settings of image processors."""

from __future__ import annotations

import math
from typing import Any

import pytest

from moir_edge.errors import BundleError
from moir_edge.runtime.image_processing import image_processor_from

TILING: dict[str, Any] = {"image_processor_type": "SmolVLMImageProcessor"}
CROPPING: dict[str, Any] = {"image_processor_type": "CLIPImageProcessor"}


@pytest.mark.parametrize(
    ("config", "place"),
    [
        (TILING | {"size": {"longest_edge": -5}}, "size.longest_edge: Input should be greater"),
        (TILING | {"size": {"longest_edge": 10**9}}, "size.longest_edge: Input should be less"),
        (TILING | {"size": {"height": 5}}, "size.longest_edge: Field required"),
        (TILING | {"size": [1, 2]}, "size: Input should be a valid dictionary"),
        (TILING | {"max_image_size": {}}, "max_image_size.longest_edge: Field required"),
        (TILING | {"resample": 77}, "resample: Input should be less than or equal to 5"),
        (TILING | {"resample": "x" * 10_000}, "resample: Input should be a valid integer"),
        (TILING | {"image_mean": [0.5, 0.5]}, "image_mean.2: Field required"),
        (TILING | {"image_mean": 0.5}, "image_mean: Input should be a valid tuple"),
        (TILING | {"image_std": [1, 1, 0]}, "image_std.2: Value error, pixels are divided by it"),
        (TILING | {"image_std": [1, 1, math.nan]}, "image_std.2: Input should be a finite number"),
        (TILING | {"rescale_factor": math.inf}, "rescale_factor: Input should be a finite number"),
        (CROPPING | {"size": {"shortest_edge": 0}}, "size.shortest_edge: Input should be greater"),
        (CROPPING | {"crop_size": {"height": "a", "width": 1}}, "crop_size.height: Input should"),
        (CROPPING | {"do_pad": "maybe"}, "do_pad: Input should be a valid boolean"),
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
