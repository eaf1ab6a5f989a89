from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from moir_edge.errors import DataError, UnsupportedError
from moir_edge.runtime.image_processing import image_processor_from

SIZES = [
    (37, 91),
    (200, 150),
    (151, 200),
    (48, 48),
    (3, 120),
    (500, 90),
    (1, 1),
    (64, 65),
    (25, 25),
]

CASES: list[tuple[Any, dict[str, Any]]] = [
    # SmolVLM-256M's own figures: 17 tiles of 512 at most
    (
        SmolVLMImageProcessorPil,
        {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}},
    ),
    (
        SmolVLMImageProcessorPil,
        {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}},
    ),
    (
        SmolVLMImageProcessorPil,
        {
            "size": {"longest_edge": 48},
            "max_image_size": {"longest_edge": 48},
            "do_image_splitting": False,
        },
    ),
    (SmolVLMImageProcessorPil, {"do_resize": False, "max_image_size": {"longest_edge": 32}}),
    (
        SmolVLMImageProcessorPil,
        {"size": {"height": 70, "width": 40}, "max_image_size": {"longest_edge": 32}},
    ),
    (
        Idefics3ImageProcessorPil,
        {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}},
    ),
    (CLIPImageProcessorPil, {}),
    (
        CLIPImageProcessorPil,
        {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
    ),
    (
        CLIPImageProcessorPil,
        {"size": {"shortest_edge": 30}, "crop_size": {"height": 33, "width": 44}},
    ),
    (CLIPImageProcessorPil, {"size": {"height": 30, "width": 40}, "do_center_crop": False}),
    (CLIPImageProcessorPil, {"do_resize": False}),
    (CLIPImageProcessorPil, {"do_normalize": False}),
    (CLIPImageProcessorPil, {"do_rescale": False}),
    (LlavaImageProcessorPil, {}),
    (LlavaImageProcessorPil, {"do_pad": True}),
    (SiglipImageProcessorPil, {"size": {"height": 48, "width": 48}}),
    (GotOcr2ImageProcessorPil, {}),
    (GotOcr2ImageProcessorPil, {"crop_to_patches": True, "size": {"height": 32, "width": 32}}),
    (
        GotOcr2ImageProcessorPil,
        {"crop_to_patches": True, "size": {"height": 20, "width": 30}, "max_patches": 7},
    ),
    (
        GotOcr2ImageProcessorPil,
        {"crop_to_patches": True, "size": {"height": 16, "width": 16}, "min_patches": 3},
    ),
    (GotOcr2ImageProcessorPil, {"crop_to_patches": True, "max_patches": 1}),
]


@pytest.mark.parametrize(("family", "options"), CASES)
def test_pixels_equal_transformers_bit_for_bit(
    family: Any, options: dict[str, Any], picture: Callable[..., Image.Image]
) -> None:
    theirs = family(**options)
    ours = image_processor_from(json.loads(json.dumps(theirs.to_dict())))
    splits = hasattr(theirs, "do_image_splitting")
    for height, width in SIZES:
        image = picture(height, width)
        extra = {"return_row_col_info": True} if splits else {}
        expected = theirs(image, return_tensors="np", **extra)
        processed = ours(image)
        pixels = np.asarray(expected["pixel_values"])
        if splits:
            pixels = pixels[0]
            assert (expected["rows"][0][0], expected["cols"][0][0]) == (
                processed.shape.rows,
                processed.shape.columns,
            )
            # Every tile is a full square, which is why the vision graph takes no pixel mask.
            assert np.all(expected["pixel_attention_mask"] == 1)
        np.testing.assert_array_equal(processed.pixel_values, pixels)
        assert processed.pixel_values.dtype == np.float32
        assert len(processed.shape.views) == len(pixels)


def test_defaults_are_those_of_the_family(picture: Callable[..., Image.Image]) -> None:
    for family in (
        SmolVLMImageProcessorPil,
        CLIPImageProcessorPil,
        SiglipImageProcessorPil,
        GotOcr2ImageProcessorPil,
    ):
        ours = image_processor_from({"image_processor_type": family.__name__.removesuffix("Pil")})
        image = picture(50, 60)
        expected = np.asarray(family()(image, return_tensors="np")["pixel_values"])
        np.testing.assert_array_equal(
            ours(image).pixel_values, expected.reshape(-1, *expected.shape[-3:])
        )


def test_tiles_lie_where_their_boxes_say() -> None:
    config = {
        "image_processor_type": "SmolVLMImageProcessorFast",
        "size": {"longest_edge": 96},
        "max_image_size": {"longest_edge": 32},
        "resample": 0,
    }
    image = Image.new("RGB", (96, 64))
    image.paste((255, 255, 255), (64, 32, 96, 64))  # row 1, column 2 of the 2 x 3 tiles
    processed = image_processor_from(config)(image)
    white = [
        view
        for view, tile in zip(processed.shape.views, processed.pixel_values, strict=True)
        if tile.min() == 1
    ]
    assert [(view.row, view.column) for view in white] == [(1, 2)]
    assert white[0].box == pytest.approx((2 / 3, 1 / 2, 1, 1))
    assert processed.shape.views[-1].kind == "global"


@pytest.mark.parametrize(
    ("size", "box"),
    [((96, 48), (0.25, 0, 0.75, 1)), ((48, 96), (0, 0.25, 1, 0.75)), ((48, 48), (0, 0, 1, 1))],
)
def test_centre_crop_says_which_part_it_shows(
    size: tuple[int, int], box: tuple[float, ...]
) -> None:
    config = {"image_processor_type": "CLIPImageProcessor", "size": 24, "crop_size": 24}
    processed = image_processor_from(config)(Image.new("RGB", size))
    assert processed.shape.views[0].box == pytest.approx(box)


def test_padding_to_a_square_reaches_outside_the_image() -> None:
    config = {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
    processed = image_processor_from(config)(Image.new("RGB", (100, 50)))
    assert processed.shape.views[0].box == pytest.approx((0, -0.5, 1, 1.5))


def test_unknown_processor_lists_the_known_ones() -> None:
    with pytest.raises(
        UnsupportedError, match=r"unknown image processor 'ClipImageProcesor'.*CLIPImageProcessor"
    ):
        image_processor_from({"image_processor_type": "ClipImageProcesor"})


def test_extreme_shapes_are_refused_before_memory_runs_out() -> None:
    processor = image_processor_from({"image_processor_type": "CLIPImageProcessor"})
    with pytest.raises(DataError, match="less extreme shape"):
        processor(Image.new("RGB", (20000, 1)))
    with pytest.raises(
        DataError,
        match=r"20000x1 pixels would become 4480000x224, which takes more than 37748736 pixels",
    ):
        processor(Image.new("RGB", (20000, 1)))
    padded = image_processor_from({"image_processor_type": "LlavaImageProcessor", "do_pad": True})
    with pytest.raises(
        DataError, match=r"20000x1 pixels would become 20000x20000, which takes more than"
    ):
        padded(Image.new("RGB", (20000, 1)))


def test_more_tiles_than_the_context_has_room_for_are_refused_before_they_are_cut() -> None:
    config = {
        "image_processor_type": "SmolVLMImageProcessor",
        "size": {"longest_edge": 64},
        "max_image_size": {"longest_edge": 16},
    }
    image = Image.new("RGB", (64, 64))
    assert len(image_processor_from(config, max_tiles=17)(image).shape.views) == 17
    with pytest.raises(DataError, match="becomes 17 tiles, the model's context has room for 16;"):
        image_processor_from(config, max_tiles=16)(image)


def test_a_small_limit_on_images_leaves_the_size_that_the_model_sees() -> None:
    processor = image_processor_from({"image_processor_type": "CLIPImageProcessor"}, max_pixels=100)
    assert processor(Image.new("RGB", (10, 10))).pixel_values.shape == (1, 3, 224, 224)


_MEASURE = """
import json, sys
from PIL import Image
from moir_edge.errors import DataError
from moir_edge.runtime.image_processing import image_processor_from
from moir_edge.runtime.timing import peak_memory_bytes
processor = image_processor_from(json.loads(sys.argv[1]))
processor(Image.new("RGB", (64, 64)))
before = peak_memory_bytes()
try:
    processor(Image.new("RGB", (int(sys.argv[2]), int(sys.argv[3]))))
except DataError as error:
    print(error, file=sys.stderr)
print(peak_memory_bytes() - before)
"""


@pytest.mark.parametrize("size", [(4096, 3072), (60_000, 209), (192, 65_535), (6143, 2048)])
@pytest.mark.parametrize("family", ["SmolVLM", "CLIP", "Llava"])
def test_the_largest_images_take_less_than_300_megabytes(
    family: str, size: tuple[int, int]
) -> None:
    config = {
        "image_processor_type": f"{family}ImageProcessor",
        "size": {"longest_edge": 2048} if family == "SmolVLM" else {"shortest_edge": 336},
        "do_pad": True,
    }
    words = [sys.executable, "-c", _MEASURE, json.dumps(config), *map(str, size)]
    child = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(child.stdout) < 300e6
