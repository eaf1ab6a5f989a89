"""The decoder graph against the language models themselves, which keep a window in their cache, past the window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from moir_edge.export.attention import export_attention
from moir_edge.models.decoder import BlockDecoderGraph, DecoderGraph
from moir_edge.models.masks import LayerMasks

WINDOW, PROMPT, STEPS = 4, 9, 3
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": WINDOW,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
MODELS: dict[str, dict[str, Any]] = {
    "Gemma2": {"head_dim": 8, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0, "layer_types": MIXED},
    "Gemma3Text": {"head_dim": 8, "query_pre_attn_scalar": 24, "layer_types": MIXED},
    "Cohere2": {"layer_types": MIXED},
    "Mistral": {"head_dim": 8},
    # Queries are scaled by their position, from `original_max_position_embeddings` on.
    "Ministral3": {
        "head_dim": 8,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 16.0,
            "original_max_position_embeddings": 5,
            "llama_4_scaling_beta": 0.5,
        },
    },
}  # fmt: skip


def build(name: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **MODELS[name])
    model = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model


def decode(graph: DecoderGraph, mask: torch.Tensor, embeds: torch.Tensor, *blocks: Any) -> Any:
    """Run a prompt, then one token after another; return the logits of every step."""
    layers, heads, width = 3, 2, graph.lm.layers[0].self_attn.head_dim
    past = [torch.zeros(len(mask), heads, 0, width)] * (2 * layers)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    found, done = [], 0
    for stop in range(PROMPT, PROMPT + STEPS + 1):
        now = slice(done, stop)
        step = [one[:, now] for one in blocks]
        logits, *past = graph(embeds[:, now], mask[:, :stop], positions[:, now], *step, past)
        found.append(logits[:, 0])
        done = stop
    return torch.stack(found, dim=1)


def expected(model: Any, mask: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    """The same by the model's own masks and cache."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, found, done = None, [], 0
    for stop in range(PROMPT, PROMPT + STEPS + 1):
        given = {"attention_mask": mask[:, :stop], "position_ids": positions[:, done:stop]}
        step = model(inputs_embeds=embeds[:, done:stop], past_key_values=cache, **given)
        cache, done = step.past_key_values, stop
        found.append(step.logits[:, -1])
    return torch.stack(found, dim=1)


@pytest.mark.filterwarnings("ignore:.*past_key_values.*:FutureWarning")  # its new name from 5.24 on
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_prompt_and_steps_cross_the_window(name: str) -> None:
    model = build(name)
    mask = torch.ones(2, PROMPT + STEPS, dtype=torch.int64)
    mask[0, :2] = 0
    embeds = torch.randn(2, PROMPT + STEPS, 16)
    theirs = expected(model, mask, embeds)
    scale = getattr(model, "logit_scale", 1.0)
    after: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits * scale  # noqa: E731
    if getattr(model.config, "final_logit_softcapping", None):
        cap = model.config.final_logit_softcapping
        after = lambda logits: torch.tanh(logits / cap) * cap  # noqa: E731
    graph = DecoderGraph(model.model, model.lm_head, after_head=after)
    with export_attention(model):
        ours = decode(graph, mask, embeds)
    # float32 sums in another order.
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    # The window is what makes the difference.
    graph.masks.window = 64
    with export_attention(model):
        assert not torch.allclose(decode(graph, mask, embeds), theirs, atol=1e-3)


@torch.no_grad()
def test_blocks_reach_the_logits_in_the_prompt_alone() -> None:
    model = build("Gemma3Text")
    mask, embeds = (
        torch.ones(1, PROMPT + STEPS, dtype=torch.int64),
        torch.randn(1, PROMPT + STEPS, 16),
    )
    blocks = torch.full((1, PROMPT + STEPS), -1)
    plain = DecoderGraph(model.model, model.lm_head)
    masks = LayerMasks(model.config)
    blockwise = BlockDecoderGraph(model.model, model.lm_head, masks=masks)
    with export_attention(model):
        causal = decode(plain, mask, embeds)
        assert torch.equal(decode(blockwise, mask, embeds, blocks), causal)
        blocks[:, 2:8] = 0
        assert not torch.allclose(decode(blockwise, mask, embeds, blocks), causal, atol=1e-3)
