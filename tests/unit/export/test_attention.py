"""The traced attention against torch's and transformers' own."""

from __future__ import annotations

import pytest
import torch

from moir_edge.export.attention import grouped_attention
from moir_edge.models.masks import MASKED_SCORE


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_grouped_attention_is_torchs(kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 3, 8, generator=generator)
    key, value = (torch.randn(2, kv_heads, 5, 8, generator=generator) for _ in range(2))
    allowed = torch.ones(2, 1, 3, 5, dtype=torch.bool).tril(2)
    groups = 6 // kv_heads
    mask = torch.where(allowed, 0.0, MASKED_SCORE).repeat(1, 1, groups, 1)

    ours, weights = grouped_attention(torch.nn.Identity(), query, key, value, mask)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=allowed, enable_gqa=True
    )

    assert weights is None
    # float32 sums in another order.
    torch.testing.assert_close(ours, theirs.transpose(1, 2), atol=1e-6, rtol=0)


def test_scores_are_bounded_as_gemma2_does() -> None:
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 3, 8, generator=generator) * 9
    key, value = (torch.randn(2, 4, 5, 8, generator=generator) for _ in range(2))
    module = torch.nn.Identity()
    module.num_key_value_groups = 1
    mask = torch.where(torch.ones(3, 5, dtype=torch.bool).tril(2), 0.0, MASKED_SCORE)[None, None]
    settings = {"scaling": 0.3, "softcap": 5.0}

    ours, _ = grouped_attention(module, query, key, value, mask, **settings)
    theirs, _ = eager_attention_forward(module, query, key, value, mask, **settings)

    # float32 in another order.
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    free, _ = grouped_attention(module, query, key, value, mask, scaling=0.3)
    assert not torch.allclose(ours, free, atol=1e-2)
