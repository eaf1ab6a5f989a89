"""Training with plain attention on a CPU, and every part's own attention given back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel

from moir_edge.tuning.run import _plain_attention_on_cpu

SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def model() -> Any:
    """A LLaVA, whose class has fused attention, with the language model of Gemma 2, which has plain attention alone."""
    config = LlavaConfig(
        vision_config={
            **SIZES,
            "model_type": "clip_vision_model",
            "image_size": 8,
            "patch_size": 4,
        },
        text_config={
            **SIZES,
            "model_type": "gemma2",
            "vocab_size": 16,
            "head_dim": 4,
            "num_key_value_heads": 1,
        },
        image_token_id=3,
    )
    return LlavaForConditionalGeneration(config)


def implementations(model: Any) -> list[str]:
    return [
        part.config._attn_implementation
        for part in model.modules()
        if isinstance(part, PreTrainedModel)
    ]


def test_each_part_gets_its_own_attention_back(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = implementations(model)
    assert {"eager", "sdpa"} == set(before)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with _plain_attention_on_cpu(model):
        assert set(implementations(model)) == {"eager"}
    assert implementations(model) == before


def test_a_gpu_keeps_fused_attention(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = implementations(model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with _plain_attention_on_cpu(model):
        assert implementations(model) == before
