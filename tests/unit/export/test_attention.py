"""The traced attention and mask against torch's and transformers' own."""

from __future__ import annotations

import pytest
import torch

from moir_edge.export.attention import grouped_attention
from moir_edge.export.wrappers import MASKED_SCORE, decoder_mask


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


def test_mask_is_causal_and_hides_padding() -> None:
    attention_mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    mask = decoder_mask(attention_mask, past=2, new=2, groups=1)
    no = MASKED_SCORE
    assert mask[:, 0].tolist() == [
        [[no, 0, 0, no], [no, 0, 0, 0]],
        [[0, 0, 0, no], [0, 0, 0, 0]],
    ]


def test_mask_repeats_for_each_group() -> None:
    mask = decoder_mask(torch.ones(1, 3, dtype=torch.int64), past=0, new=3, groups=2)
    assert mask.shape == (1, 1, 6, 3)
    assert torch.equal(mask[:, :, :3], mask[:, :, 3:])


def test_masked_score_stays_finite_in_half_precision() -> None:
    # Two masked scores may be added (causal and padding), and a score comes on top.
    score = torch.tensor([MASKED_SCORE * 2 - 100], dtype=torch.float16)
    assert torch.isfinite(score).all()
    # Its exponential is zero next to any real score.
    assert torch.softmax(torch.tensor([-1e3, MASKED_SCORE]), dim=0)[1] == 0
