"""Kinds of layers and of rotary embeddings, read from real configs, and the one line about those that no graph is right for."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import (
    Gemma3TextConfig,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3NextConfig,
)

from moir_edge.errors import UnsupportedError
from moir_edge.models.layers import check_layers, layer_kinds, rotary_types

BOTH = ("full_attention", "sliding_attention")


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        (LlamaConfig(), BOTH[:1]),
        (MistralConfig(sliding_window=None), BOTH[:1]),
        (MistralConfig(sliding_window=8), BOTH[1:]),
        (Qwen2Config(sliding_window=8, use_sliding_window=False), BOTH[:1]),
        (Qwen2Config(sliding_window=8, use_sliding_window=True, max_window_layers=2), BOTH),
        (Gemma3TextConfig(), BOTH),
    ],
)
def test_kinds_of_attention(config: Any, kinds: tuple[str, ...]) -> None:
    assert layer_kinds(config) == kinds


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Llama4TextConfig(), "'llama4_text' has layers of chunked_attention, full_attention .*export supports full_att"),
        (Qwen3NextConfig(), "'qwen3_next' has layers of full_attention, linear_attention"),
        (Gemma3TextConfig(sliding_window=None), "sliding_window None; correct it in config.json to a number"),
        (Gemma3TextConfig(use_bidirectional_attention=True), "looks at later tokens too .*from left to right"),
    ],
)  # fmt: skip
def test_other_kinds_are_refused_in_one_line(config: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        check_layers("model", config)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("retrofit and tune accept it")


def test_rotary_embeddings_of_each_kind_of_layer() -> None:
    config = Gemma3TextConfig(rope_scaling={"rope_type": "linear", "factor": 8.0})
    assert rotary_types(config) == ("default", "linear")
    assert rotary_types(LlamaConfig()) == ("default",)


def test_rotary_embedding_of_one_kind_of_layer_that_no_graph_is_right_for() -> None:
    config = Gemma3TextConfig(rope_scaling={"rope_type": "dynamic", "factor": 8.0})
    with pytest.raises(UnsupportedError, match=r"rotary embedding 'dynamic' .*supported: default"):
        check_layers("model", config)
