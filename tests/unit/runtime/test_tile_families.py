from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from moir_edge.bundle import ModelFacts
from moir_edge.errors import BundleError, DataError, UnsupportedError
from moir_edge.models import architecture_names
from moir_edge.runtime.families import Family, ImageTokens, families, family_of
from moir_edge.runtime.image_processor import ImageShape, View

TOKENS = ImageTokens(image="<image>", special_tokens={})


def family(model_type: str, **changes: Any) -> Family:
    known: dict[str, Any] = {
        "model_type": model_type,
        "image_token_id": 3,
        "tokens_per_tile": 3,
        "image_size": 8,
    }
    return family_of(ModelFacts.model_construct(**{**known, **changes}))


def shape(rows: int, columns: int) -> ImageShape:
    views = (View(kind="whole"),) * (rows * columns + 1)
    return ImageShape(rows=rows, columns=columns, views=views, size=(5, 7))


def test_every_architecture_has_a_family() -> None:
    assert families() == architecture_names()


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 2), (2, 1), (3, 4)])
def test_smolvlm_layout_is_that_of_transformers(rows: int, columns: int) -> None:
    processor = Idefics3Processor.__new__(Idefics3Processor)
    processor.image_token = "<image>"
    processor.fake_image_token = "<fake_token_around_image>"
    processor.global_image_token = "<global-img>"
    processor.global_image_tag = "<global-img>"
    processor.image_seq_len = 3
    expected = processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, image_idx=0)
    smolvlm = family("smolvlm")
    assert smolvlm.placeholders(TOKENS, shape(rows, columns)) == expected
    assert expected.count("<image>") == smolvlm.token_count(shape(rows, columns))


def test_llava_repeats_its_image_token() -> None:
    assert family("llava").placeholders(TOKENS, shape(0, 0)) == "<image><image><image>"


def test_names_of_the_tokenizer_win() -> None:
    named = {"fake_image_token": "|", "global_image_token": "G"}
    tokens = ImageTokens(image="<i>", special_tokens=named)
    assert family("smolvlm", tokens_per_tile=1).placeholders(tokens, shape(0, 0)) == "|G<i>|"


def test_unknown_model_type_offers_the_closest() -> None:
    with pytest.raises(UnsupportedError, match="did you mean 'smolvlm'"):
        family("smolvlm2")


@pytest.mark.parametrize("lacking", ["tokens_per_tile", "image_size"])
def test_a_manifest_without_the_size_of_a_tile_is_refused(lacking: str) -> None:
    with pytest.raises(BundleError) as caught:
        family("llava", **{lacking: None})
    assert str(caught.value) == (
        "the manifest of a llava lacks model.image_size or model.tokens_per_tile; export the bundle again"
    )


def test_black_tiles_that_fill_a_row_up_are_left_out() -> None:
    pixels = np.ones((2, 2, 3, 8, 8), np.float32)
    pixels[1, 1] = 0
    ids = np.array([[3] * 6, [0] * 3 + [3] * 3])
    tiles, shapes = family("smolvlm").from_transformers({"pixel_values": pixels}, ids) or (None, ())
    assert tiles is not None
    assert (len(tiles), len(shapes)) == (3, 3)
    with pytest.raises(DataError, match="4 image tiles for 5 places in the prompt"):
        family("llava").from_transformers({"pixel_values": pixels + 1}, np.full((1, 15), 3))


def test_a_sample_has_the_tokens_that_it_says() -> None:
    picture = family("llava").sample_image(np.random.default_rng(0))
    assert picture.pixel_values.shape == (1, 3, 8, 8)
    assert np.abs(picture.pixel_values).max() <= 1
    assert picture.shape.size == (8, 8)
