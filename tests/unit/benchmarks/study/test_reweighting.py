"""Attention reweighting on the demo's VLM: nothing at zero, the odds of a modality's keys at log 2, decode steps like prefills."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from benchmarks.study.reweighting import IMAGE, TEXT, AttentionReweighting
from moir_edge.demo import checkpoint_path, demo_rows
from moir_edge.router import load_retrofitted, remove_router, special_token_ids


@pytest.fixture
def model() -> Any:
    model = load_retrofitted(checkpoint_path(), dtype=torch.float32)
    remove_router(model)
    model.set_attn_implementation("eager")
    return model


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(checkpoint_path())


@pytest.fixture(scope="module")
def inputs(processor: Any) -> Any:
    conversations = [
        [{"role": "user", "content": [{"type": "image", "image": row.images[0]}, {"type": "text", "text": row.prompt}]}]
        for row in demo_rows("val", count=2, tasks=("vqa",))
    ]  # fmt: skip
    return processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )  # fmt: skip


def _attached(model: Any, processor: Any) -> AttentionReweighting:
    return AttentionReweighting(model, frozenset(special_token_ids(processor.tokenizer)))


def test_fresh_biases_leave_every_logit_bit_identical(
    model: Any, processor: Any, inputs: Any
) -> None:
    with torch.no_grad():
        before = model(**inputs).logits
        module = _attached(model, processor)
        after = model(**inputs).logits
    assert torch.equal(before, after)
    assert sum(weight.numel() for weight in module.parameters()) == 4 * 6 * 2


def test_a_bias_of_log_two_doubles_the_odds_of_image_keys_in_its_head_alone(
    model: Any, processor: Any, inputs: Any
) -> None:
    module = _attached(model, processor)
    with torch.no_grad():
        before = model(**inputs, output_attentions=True).attentions[0]
        module.bias[0, 2, IMAGE - 1] = math.log(2)
        after = model(**inputs, output_attentions=True).attentions[0]
    image = inputs["input_ids"] == model.config.image_token_id
    for row in range(2):
        own, changed = before[row, 2, -1], after[row, 2, -1]
        mass, other = own[image[row]].sum(), own[~image[row]].sum()
        expected = torch.where(image[row], 2 * own, own) / (2 * mass + other)
        # float32 softmax
        torch.testing.assert_close(changed, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(after[:, [0, 1, 3, 4, 5]], before[:, [0, 1, 3, 4, 5]])


def test_decode_steps_weigh_the_prompt_as_one_long_forward_does(
    model: Any, processor: Any, inputs: Any
) -> None:
    module = _attached(model, processor)
    with torch.no_grad():
        module.bias.copy_(
            torch.randn(module.bias.shape, generator=torch.Generator().manual_seed(0))
        )
        found = model.generate(**inputs, max_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True)  # fmt: skip
        ids = found.sequences[:, :-1]
        new = ids[:, inputs["input_ids"].shape[1] :]
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(new)], dim=1)
        # labels tell prompt from answer, which takes no bias
        labels = torch.cat([torch.full_like(inputs["input_ids"], -100), new], dim=1)
        whole = model(input_ids=ids, attention_mask=mask, pixel_values=inputs["pixel_values"], labels=labels)  # fmt: skip
    steps = torch.stack(found.logits, dim=1)
    # one float32 forward against cached steps
    torch.testing.assert_close(whole.logits[:, -steps.shape[1] :], steps, rtol=0, atol=2e-4)


def test_text_keys_are_the_words_and_neither_special_nor_answer_tokens(
    model: Any, processor: Any, inputs: Any
) -> None:
    module = _attached(model, processor)
    with torch.no_grad():
        model(**inputs)
    modality = module._modality
    assert modality is not None
    ids = inputs["input_ids"]
    special = torch.isin(ids, torch.tensor(sorted(special_token_ids(processor.tokenizer))))
    assert torch.equal(modality == IMAGE, ids == model.config.image_token_id)
    assert torch.equal(modality == TEXT, ~special & (ids != model.config.image_token_id))
