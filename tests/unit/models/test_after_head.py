"""The decoder as it is traced: what it does to logits behind the head."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from moir_edge.models.decoder import DecoderGraph


@pytest.mark.parametrize("tied", [False, True])
def test_logits_pass_through_what_follows_the_head(tied: bool) -> None:
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    language_model = LlamaModel(config)
    head = nn.Linear(8, 11, bias=False)
    if tied:
        head.weight = language_model.embed_tokens.weight
    past = [torch.zeros(1, 2, 0, 4)] * 2
    inputs = (torch.randn(1, 3, 8), torch.ones(1, 3).long(), torch.arange(3)[None], past)

    plain = DecoderGraph(language_model, head)(*inputs)
    capped = DecoderGraph(language_model, head, after_head=lambda logits: logits.div(4).tanh())(
        *inputs
    )

    assert plain[0].shape == (1, 1, 11)
    assert torch.equal(capped[0], plain[0].div(4).tanh())
    assert torch.equal(capped[1], plain[1])
