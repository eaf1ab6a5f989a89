"""The cache by both of its names, on real classes of the installed transformers."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import BaseModelOutputWithPast

from moir_edge.transformers_cache import cache_keyword, cached_tokens, given_cache, returned_cache


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=20, num_attention_heads=2, num_key_value_heads=1, **sizes)
    return LlamaForCausalLM(config).eval()


def three_tokens() -> DynamicCache:
    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, 3, 8), torch.zeros(1, 1, 3, 8), 0)
    return cache


class OwnCode(torch.nn.Module):
    """A language model whose code comes with its checkpoint, written before the rename."""

    def forward(self, inputs_embeds: Any, past_key_values: Any = None) -> Any:
        return inputs_embeds, past_key_values


class PassesOn(torch.nn.Module):
    def forward(self, **kwargs: Any) -> Any:
        return kwargs


def test_keyword_is_one_that_the_forward_takes(model: Any) -> None:
    assert cache_keyword(model) in inspect.signature(LlamaForCausalLM.forward).parameters
    assert cache_keyword(OwnCode()) == "past_key_values"


def test_keyword_of_a_forward_that_passes_all_on_is_transformers_own(model: Any) -> None:
    assert cache_keyword(PassesOn()) == cache_keyword(model)


def test_step_with_the_cache_equals_the_whole_prompt(model: Any) -> None:
    ids = torch.tensor([[4, 9, 2, 7]])
    with torch.no_grad():
        whole = model(input_ids=ids).logits[:, -1]
        cache = returned_cache(model(input_ids=ids[:, :3], use_cache=True))
        last = model(input_ids=ids[:, 3:], **{cache_keyword(model): cache}).logits[:, -1]
    assert cache.get_seq_length() == 4
    # two orders of summation in float32, on logits below 1
    torch.testing.assert_close(last, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_cache_is_found_under_either_name(name: str) -> None:
    cache = three_tokens()
    assert given_cache({"input_ids": 1, name: cache}) is cache
    assert cached_tokens({"input_ids": 1, name: cache}) == 3


def test_no_cache_holds_no_tokens() -> None:
    assert given_cache({"cache": None, "past_key_values": None}) is None
    assert cached_tokens({}) == 0
    assert cached_tokens({"cache": DynamicCache()}) == 0


def test_output_without_a_cache() -> None:
    assert returned_cache(BaseModelOutputWithPast(last_hidden_state=torch.zeros(1))) is None
