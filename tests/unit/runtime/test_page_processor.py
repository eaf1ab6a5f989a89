"""Granite-Docling's pages against the Hugging Face processor: tiles, order, pixels and the rule of large spreads."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers.models.granite_docling.image_processing_pil_granite_docling import (
    GraniteDoclingImageProcessorPil,
)

from moir_edge.errors import BundleError, DataError
from moir_edge.runtime.image_processing import image_processor_from

SIZES = [(16, 16), (10, 90), (90, 10), (17, 24), (40, 60), (64, 36), (50, 160), (400, 9)]
RULES = [
    {},
    {"crop_to_patches": False},
    {"max_patches": 1},
    {"min_patches": 3, "max_patches": 20},
    {"max_patches": 4, "dense_max_patches": 9, "dense_max_scale": 0.9},
    {"max_patches": 4, "dense_max_patches": 9, "dense_min_aspect": 1.2, "dense_max_aspect": 3.0},
    {"max_patches": 3, "dense_max_patches": 8, "dense_max_scale": 0.7, "dense_min_aspect": 0.5},
]


@pytest.mark.parametrize("rule", RULES)
def test_tiles_are_those_of_hugging_face(rule: dict[str, float]) -> None:
    size = {"height": 16, "width": 16}
    theirs = GraniteDoclingImageProcessorPil(size=size, **rule)
    ours = image_processor_from(theirs.to_dict())
    random = np.random.default_rng(0)
    for height, width in SIZES:
        picture = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        found = ours(picture)
        expected = theirs(picture, return_tensors="np")
        np.testing.assert_array_equal(found.pixel_values, expected["pixel_values"][0])
        grid = (expected["rows"][0][0], expected["cols"][0][0])
        assert (max(1, found.shape.rows), max(1, found.shape.columns)) == grid
        assert len(found.shape.views) == len(found.pixel_values)


def test_settings_and_tiles_are_bounded() -> None:
    config = {"image_processor_type": "GraniteDoclingImageProcessor"}
    with pytest.raises(
        BundleError, match="dense_max_patches must be a whole number from 0 to 1024"
    ):
        image_processor_from({**config, "dense_max_patches": -1})
    with pytest.raises(BundleError, match="fine_route must be true or false"):
        image_processor_from({**config, "fine_route": "no"})
    with pytest.raises(DataError, match="becomes 5 tiles, the model's context has room for 4"):
        image_processor_from({**config, "max_patches": 4}, max_tiles=4)(Image.new("RGB", (40, 10)))
