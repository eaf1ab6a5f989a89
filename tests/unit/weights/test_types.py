"""The type in which weights stay in their files, and buffers that a narrow type would spoil."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from moir_edge.weights.types import stored_dtype, widen_buffers


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ({"a": torch.bfloat16, "b": torch.bfloat16}, torch.bfloat16),
        ({"a": torch.float16}, torch.float16),
        ({"a": torch.float32}, torch.float32),
        ({"a": torch.bfloat16, "moir_router.norm.weight": torch.float32}, torch.bfloat16),
        # One type for all would round one of them.
        ({"a": torch.bfloat16, "b": torch.float32}, torch.float32),
        ({"a": torch.bfloat16, "b": torch.float16}, torch.float32),
        ({"a": torch.float64}, torch.float32),
    ],
)
def test_weights_stay_in_the_one_type_that_all_have(
    tmp_path: Path, types: dict[str, torch.dtype], expected: torch.dtype
) -> None:
    tensors = {name: torch.zeros(2, dtype=dtype) for name, dtype in types.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    assert stored_dtype(tmp_path) == expected


def test_factor_that_the_model_computes_is_that_of_the_float32_model(tmp_path: Path) -> None:
    """Gemma multiplies embeddings by √hidden, which bfloat16 rounds to 6.3125 where hidden is 40."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=40,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    model: Any = Gemma3ForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    wide: Any = Gemma3ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert float(model.model.embed_tokens.embed_scale) == 6.3125
    before = [one.data_ptr() for one in model.parameters()]
    widen_buffers(Gemma3ForCausalLM, model)
    for got, expected in zip(model.buffers(), wide.buffers(), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert [one.data_ptr() for one in model.parameters()] == before
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}
