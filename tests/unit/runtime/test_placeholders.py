from __future__ import annotations

import pytest
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from moir_edge.errors import UnsupportedError
from moir_edge.runtime.placeholders import ImageTokens, expander_for

TOKENS = ImageTokens(image="<image>", tokens_per_tile=3, special_tokens={})


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 2), (2, 1), (3, 4)])
def test_smolvlm_layout_is_that_of_transformers(rows: int, columns: int) -> None:
    processor = Idefics3Processor.__new__(Idefics3Processor)
    processor.image_token = "<image>"
    processor.fake_image_token = "<fake_token_around_image>"
    processor.global_image_token = "<global-img>"
    processor.global_image_tag = "<global-img>"
    processor.image_seq_len = 3
    expected = processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, image_idx=0)
    assert expander_for("smolvlm")(TOKENS, rows, columns) == expected


def test_llava_repeats_its_image_token() -> None:
    assert expander_for("llava")(TOKENS, 0, 0) == "<image><image><image>"


def test_names_of_the_tokenizer_win() -> None:
    tokens = ImageTokens(
        image="<i>",
        tokens_per_tile=1,
        special_tokens={"fake_image_token": "|", "global_image_token": "G"},
    )
    assert expander_for("smolvlm")(tokens, 0, 0) == "|G<i>|"


def test_unknown_model_type_offers_the_closest() -> None:
    with pytest.raises(UnsupportedError, match="did you mean 'smolvlm'"):
        expander_for("smolvlm2")
