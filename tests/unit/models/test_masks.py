"""The traced masks against those that transformers makes, at lengths on both sides of the window."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Cohere2Config, Gemma2Config, Gemma3TextConfig, LlamaConfig, MistralConfig
from transformers.masking_utils import create_masks_for_generate
from transformers.models.gemma3.modeling_gemma3 import (
    create_masks_for_vision_model,
    get_block_sequence_ids_for_mask,
)

from moir_edge.models.masks import MASKED_SCORE, LayerMasks

WINDOW = 4
SIZES: dict[str, Any] = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "num_hidden_layers": 2,
    "attn_implementation": "sdpa",
}
KINDS = ["sliding_attention", "full_attention"]
LENGTHS = [2, WINDOW, WINDOW + 1, 11]


def padded(length: int) -> torch.Tensor:
    """Two rows, the first padded on the left."""
    mask = torch.ones(2, length, dtype=torch.int64)
    mask[0, : length // 3] = 0
    return mask


def asked(config: Any, mask: torch.Tensor) -> dict[str, Any]:
    embeds = torch.zeros(*mask.shape, 8)
    return {
        "config": config,
        "inputs_embeds": embeds,
        "attention_mask": mask,
        "past_key_values": None,
        "position_ids": None,
    }


def same(ours: torch.Tensor, theirs: torch.Tensor | None, mask: torch.Tensor) -> None:
    """Compare the rows of real tokens: what padding looks at reaches no logit."""
    if theirs is None:  # transformers leaves a plain causal mask to the kernel
        length = mask.shape[1]
        theirs = torch.ones(2, 1, length, length, dtype=torch.bool).tril()
    rows = mask[:, None].bool().expand(theirs.shape[:3])
    assert torch.equal((ours == 0)[rows], theirs[rows])


@pytest.mark.parametrize("length", LENGTHS)
def test_full_and_sliding_layers(length: int) -> None:
    config = Cohere2Config(**SIZES, sliding_window=WINDOW, layer_types=KINDS)
    mask = padded(length)
    theirs = create_masks_for_generate(**asked(config, mask))
    ours = LayerMasks(config)(mask, 0, length)
    assert sorted(ours) == sorted(KINDS)
    for kind in KINDS:
        same(ours[kind], theirs[kind], mask)


@pytest.mark.parametrize("length", LENGTHS)
def test_every_layer_slides(length: int) -> None:
    config = MistralConfig(**SIZES, sliding_window=WINDOW)
    mask = padded(length)
    theirs = create_masks_for_generate(**asked(config, mask))
    same(LayerMasks(config)(mask, 0, length), theirs, mask)


# Two images, one of them longer than the window and one shorter.
IMAGES = torch.tensor([[0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0]])


def test_blocks_of_gemma3_are_seen_within_the_window() -> None:
    config = Gemma3TextConfig(**SIZES, sliding_window=WINDOW, layer_types=KINDS)
    mask, blocks = padded(11), get_block_sequence_ids_for_mask(IMAGES)
    theirs = create_masks_for_vision_model(**asked(config, mask), block_sequence_ids=blocks)
    ours = LayerMasks(config)(mask, 0, 11, blocks)
    for kind in KINDS:
        same(ours[kind], theirs[kind], mask)
    assert not torch.equal(ours[KINDS[0]], ours[KINDS[1]])


def test_blocks_of_paligemma_are_seen_across_the_window() -> None:
    config = Gemma2Config(**SIZES, sliding_window=WINDOW, layer_types=KINDS)
    mask = padded(11)
    blocks = torch.zeros(2, 11, dtype=torch.int64)
    blocks[:, 8:] = -1  # a causal suffix
    theirs = create_masks_for_generate(**asked(config, mask), block_sequence_ids=blocks)
    ours = LayerMasks(config, blocks_cross_window=True)(mask, 0, 11, blocks)
    for kind in KINDS:
        same(ours[kind], theirs[kind], mask)
    within = LayerMasks(config)(mask, 0, 11, blocks)
    assert not torch.equal(within[KINDS[0]], ours[KINDS[0]])


@pytest.mark.parametrize("blocks", [False, True])
def test_later_steps_are_the_last_rows_of_a_whole_prompt(blocks: bool) -> None:
    config = Gemma3TextConfig(**SIZES, sliding_window=WINDOW, layer_types=KINDS)
    masks, mask = LayerMasks(config), padded(11)
    images = torch.full((2, 11), -1)
    images[:, 8:10] = 0 if blocks else -1
    whole = masks(mask, 0, 11, images if blocks else None)
    later = masks(mask, 7, 4, images[:, 7:] if blocks else None)
    for kind in KINDS:
        assert torch.equal(later[kind], whole[kind][:, :, 7:])


def test_the_window_counts_tokens_and_not_unused_columns() -> None:
    config = MistralConfig(**SIZES, sliding_window=WINDOW)
    masks, tokens = LayerMasks(config), torch.ones(1, 7, dtype=torch.int64)
    whole = masks(tokens, 6, 1)[0, 0, 0]
    gap = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0, 0, 1]])
    with_gap = masks(gap, 9, 1)[0, 0, 0]
    assert torch.equal(with_gap[gap[0] == 1], whole)
    assert (with_gap[6:9] == MASKED_SCORE).all()


def test_mask_is_causal_and_hides_padding() -> None:
    attention_mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    mask = LayerMasks(LlamaConfig(num_attention_heads=2))(attention_mask, 2, 2)
    no = MASKED_SCORE
    assert mask[:, 0].tolist() == [
        [[no, 0, 0, no], [no, 0, 0, 0]],
        [[0, 0, 0, no], [0, 0, 0, 0]],
    ]


def test_mask_repeats_for_each_group() -> None:
    masks = LayerMasks(LlamaConfig(num_attention_heads=4, num_key_value_heads=2))
    mask = masks(torch.ones(1, 3, dtype=torch.int64), 0, 3)
    assert mask.shape == (1, 1, 6, 3)
    assert torch.equal(mask[:, :, :3], mask[:, :, 3:])


def test_masked_score_stays_finite_in_half_precision() -> None:
    # Two masked scores may be added (causal and padding), and a score comes on top.
    score = torch.tensor([MASKED_SCORE * 2 - 100], dtype=torch.float16)
    assert torch.isfinite(score).all()
    # Its exponential is zero next to any real score.
    assert torch.softmax(torch.tensor([-1e3, MASKED_SCORE]), dim=0)[1] == 0
