"""Squares and tiles against transformers' Pillow processors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

from moir_edge.errors import BundleError, DataError
from moir_edge.runtime.image_processing import image_processor_from

NEXT: dict[str, Any] = {"image_processor_type": "LlavaNextImageProcessor"}
ONEVISION: dict[str, Any] = {"image_processor_type": "LlavaOnevisionImageProcessor"}
SQUARE = {"height": 24, "width": 24}
CANVASES = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
# Portrait, landscape, square, one pixel, a canvas as it is, and lines: (height, width).
SIZES = [
    (90, 20),
    (31, 77),
    (48, 48),
    (1, 1),
    (24, 48),
    (1, 300),
    (300, 1),
    (200, 150),
    (25, 23),
]

CASES: list[tuple[Any, dict[str, Any]]] = [
    (LlavaNextImageProcessorPil, {"size": {"shortest_edge": 24}, "crop_size": SQUARE}),
    (LlavaNextImageProcessorPil, {"size": SQUARE, "crop_size": SQUARE, "do_center_crop": False}),
    (
        LlavaNextImageProcessorPil,
        {"size": SQUARE, "crop_size": SQUARE, "resample": 2, "do_normalize": False},
    ),
    (LlavaOnevisionImageProcessorPil, {"size": SQUARE}),
    (
        LlavaOnevisionImageProcessorPil,
        {"size": {"shortest_edge": 24}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    ),
]


@pytest.mark.parametrize(("family", "options"), CASES)
def test_tiles_equal_those_of_transformers_bit_for_bit(
    family: Any, options: dict[str, Any], picture: Callable[..., Image.Image]
) -> None:
    theirs = family(**options, image_grid_pinpoints=CANVASES)
    ours = image_processor_from(json.loads(json.dumps(theirs.to_dict())))
    for size in SIZES:
        image = picture(*size)
        expected = theirs(image, return_tensors="np")
        processed = ours(image)
        np.testing.assert_array_equal(processed.pixel_values, expected["pixel_values"][0])
        assert processed.shape.size == tuple(expected["image_sizes"][0]) == size
        assert processed.shape.rows * processed.shape.columns + 1 == len(processed.pixel_values)


def test_several_images_become_padded_squares(picture: Callable[..., Image.Image]) -> None:
    theirs = LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=CANVASES)
    ours = image_processor_from(json.loads(json.dumps(theirs.to_dict())))
    images = [picture(*size) for size in SIZES]
    expected = theirs([images], return_tensors="np")["pixel_values"]
    for image, one in zip(images, expected, strict=True):
        processed = ours.together(image)
        np.testing.assert_array_equal(processed.pixel_values, one)
        assert (processed.shape.rows, processed.shape.columns) == (0, 0)
    # The square reaches beyond a picture of 31x77 above and below.
    assert ours.together(images[1]).shape.views[0].box == pytest.approx((0, -23 / 31, 1, 54 / 31))


def test_llava_next_cuts_each_of_several_images(picture: Callable[..., Image.Image]) -> None:
    ours = image_processor_from(
        NEXT | {"size": SQUARE, "crop_size": SQUARE, "image_grid_pinpoints": CANVASES}
    )
    image = picture(31, 77)
    np.testing.assert_array_equal(ours.together(image).pixel_values, ours(image).pixel_values)


@pytest.mark.parametrize("family", [LlavaNextImageProcessorPil, LlavaOnevisionImageProcessorPil])
def test_defaults_are_those_of_the_family(family: Any, picture: Callable[..., Image.Image]) -> None:
    # LLaVA-NeXT's own default cuts tiles of 224 px on canvases of 336.
    own = {"image_grid_pinpoints": [[224, 448]]} if family is LlavaNextImageProcessorPil else {}
    ours = image_processor_from(
        {"image_processor_type": family.__name__.removesuffix("Pil"), **own}
    )
    image = picture(50, 600)
    expected = family(**own)(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(ours(image).pixel_values, expected)


def test_a_tile_shows_its_part_of_the_picture() -> None:
    ours = image_processor_from(
        NEXT
        | {"size": SQUARE, "crop_size": SQUARE, "image_grid_pinpoints": [[48, 72]], "resample": 0}
    )
    image = Image.new("RGB", (72, 48))
    image.paste((255, 255, 255), (48, 24, 72, 48))  # the lower right of 2 x 3 tiles
    processed = ours(image)
    white = [at for at, tile in enumerate(processed.pixel_values) if tile.min() > 1]
    assert (processed.shape.rows, processed.shape.columns, white) == (2, 3, [6])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (NEXT, "image_grid_pinpoints hold [336, 672], which is not made of whole tiles of 224"),
        (NEXT | {"size": {"shortest_edge": 336}}, "size ({'shortest_edge': 336}) and crop_size"),
        (ONEVISION | {"size": {"height": 384, "width": 24}}, "are not one square"),
        (ONEVISION | {"do_resize": False}, "do_resize must be true"),
        (ONEVISION | {"image_grid_pinpoints": []}, "image_grid_pinpoints must be a list of 1 to"),
        (
            ONEVISION | {"image_grid_pinpoints": [[384, 384]] * 257},
            "image_grid_pinpoints must be a list of 1 to 256 pairs",
        ),
        (
            ONEVISION | {"image_grid_pinpoints": [[384, 384], 384]},
            "image_grid_pinpoints[1] must be a list of a height and a width",
        ),
        (
            ONEVISION | {"image_grid_pinpoints": [[384, 10**9]]},
            "image_grid_pinpoints[0].width must be a whole number from 1 to",
        ),
        (
            ONEVISION | {"image_grid_pinpoints": [[True, 384]]},
            "image_grid_pinpoints[0].height must be a whole number from 1 to",
        ),
    ],
)
def test_settings_that_cannot_hold_are_named(config: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError) as caught:
        image_processor_from(config)
    text = str(caught.value)
    assert text.startswith("the image processor's ")
    assert words in text
    assert "\n" not in text


def test_a_canvas_that_takes_too_much_memory_is_refused() -> None:
    ours = image_processor_from(
        ONEVISION
        | {"size": {"height": 16384, "width": 16384}, "image_grid_pinpoints": [[16384] * 2]}
    )
    with pytest.raises(DataError, match=r"8x8 pixels would become 16384x16384, which takes more"):
        ours(Image.new("RGB", (8, 8)))
