from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from moir_edge.bundle import ModelFacts
from moir_edge.bundle.files import ModelFiles
from moir_edge.errors import BundleError, DataError
from moir_edge.runtime.chat import user_message
from moir_edge.runtime.processor import Processor

PROMPTS = [
    "What is left of the red digit?",
    "Über 漢字 — both?",
    "<end_of_utterance> inside",
    "a\n\n b ",
]


@pytest.fixture(params=["smolvlm", "llava"])
def pair(
    request: pytest.FixtureRequest, facts_of: Callable[..., ModelFacts]
) -> tuple[Processor, Any]:
    """Our processor and transformers', of the same folder."""
    folder: Path = request.getfixturevalue(f"{request.param}_folder")
    theirs = AutoProcessor.from_pretrained(folder)
    theirs.tokenizer.padding_side = "left"
    return Processor(ModelFiles(folder), facts_of(folder, request.param)), theirs


def _both(
    pair: tuple[Processor, Any], prompts: list[str], images: list[list[Image.Image]]
) -> tuple[Any, Any]:
    ours, theirs = pair
    conversations = [
        user_message(prompt, images=len(own)) for prompt, own in zip(prompts, images, strict=True)
    ]
    with_pictures = [
        [
            {
                "role": "user",
                "content": [
                    *({"type": "image", "image": image} for image in own),
                    {"type": "text", "text": prompt},
                ],
            }
        ]
        for prompt, own in zip(prompts, images, strict=True)
    ]
    expected = theirs.apply_chat_template(
        with_pictures,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="np",
        processor_kwargs={"padding": True},
    )
    return ours(conversations, images), expected


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("sizes", [[], [(24, 24)], [(60, 96)], [(200, 31), (10, 10), (96, 96)]])
def test_one_prompt_equals_transformers(
    pair: tuple[Processor, Any],
    picture: Callable[..., Image.Image],
    prompt: str,
    sizes: list[tuple[int, int]],
) -> None:
    images = [picture(*size) for size in sizes]
    inputs, expected = _both(pair, [prompt], [images])
    np.testing.assert_array_equal(inputs.input_ids, expected["input_ids"])
    if sizes:
        theirs = np.asarray(expected["pixel_values"])
        np.testing.assert_array_equal(inputs.pixel_values, theirs.reshape(-1, *theirs.shape[-3:]))
    else:
        assert inputs.pixel_values is None


def test_a_batch_is_left_padded_as_in_transformers(
    pair: tuple[Processor, Any], picture: Callable[..., Image.Image]
) -> None:
    images = [[picture(24, 24)], [picture(50, 90), picture(8, 8)]]
    inputs, expected = _both(pair, ["short", "a much longer question than the other"], images)
    np.testing.assert_array_equal(inputs.input_ids, expected["input_ids"])
    np.testing.assert_array_equal(inputs.attention_mask, expected["attention_mask"])
    assert inputs.input_ids.dtype == np.int64
    assert inputs.attention_mask.min() == 0
    # Rows without their padding are what each row gives alone.
    assert inputs.prompt_lengths == tuple(inputs.attention_mask.sum(axis=1))


def test_offsets_point_into_the_expanded_prompt(
    pair: tuple[Processor, Any], picture: Callable[..., Image.Image]
) -> None:
    inputs, _ = _both(pair, ["What is left?"], [[picture(24, 24)]])
    (prompt,) = inputs.prompts
    for token, (start, end) in zip(prompt.ids, prompt.offsets, strict=True):
        if token == pair[0].facts.image_token_id:
            assert prompt.expanded[start:end] == "<image>"


def test_images_and_placeholders_must_match(
    smolvlm_folder: Path, facts_of: Callable[..., ModelFacts], picture: Callable[..., Image.Image]
) -> None:
    processor = Processor(ModelFiles(smolvlm_folder), facts_of(smolvlm_folder, "smolvlm"))
    with pytest.raises(DataError, match=r"names 2 image\(s\) and 1 were given"):
        processor([user_message("what is <image>?", images=1)], [[picture(9, 9)]])
    with pytest.raises(DataError, match=r"names 0 image\(s\) and 1 were given"):
        processor([user_message("what?", images=0)], [[picture(9, 9)]])


def test_a_prompt_past_the_context_is_refused_with_numbers(
    smolvlm_folder: Path, facts_of: Callable[..., ModelFacts], picture: Callable[..., Image.Image]
) -> None:
    roomy = Processor(ModelFiles(smolvlm_folder), facts_of(smolvlm_folder, "smolvlm"))
    conversation = [user_message("Why?", images=1)]
    (length,) = roomy(conversation, [[picture(24, 24)]]).prompt_lengths
    exact = Processor(
        ModelFiles(smolvlm_folder), facts_of(smolvlm_folder, "smolvlm", context_length=length + 1)
    )
    assert exact(conversation, [[picture(24, 24)]]).prompt_lengths == (length,)
    full = Processor(
        ModelFiles(smolvlm_folder), facts_of(smolvlm_folder, "smolvlm", context_length=length)
    )
    with pytest.raises(DataError, match=rf"has {length} tokens \(\d+ of them from \d+ image tile"):
        full(conversation, [[picture(24, 24)]])


def test_a_folder_without_image_processor_is_refused(
    smolvlm_folder: Path, facts_of: Callable[..., ModelFacts], tmp_path: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((smolvlm_folder / name).read_bytes())
    with pytest.raises(BundleError, match=r"neither preprocessor_config\.json nor"):
        Processor(ModelFiles(tmp_path), facts_of(smolvlm_folder, "smolvlm"))
