"""Every family without some image tokens, against Hugging Face's language model that is given the same tokens and positions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.models.gemma3.modeling_gemma3 import (
    create_masks_for_vision_model,
    get_block_sequence_ids_for_mask,
)

from moir_edge.router import router_disabled
from moir_edge.router.attach import _language_model
from moir_edge.runtime import EdgeModel
from moir_edge.runtime.generation import PreparedPrompt, prepare_prompt
from moir_edge.runtime.pruning import Pruning, selector_named
from moir_edge.runtime.timing import Stopwatch
from tests.unit.families.conftest import ANSWER, Row, Twins, picture

pytestmark = [pytest.mark.slow, pytest.mark.proves("runtime")]

STEPS = 3
ROWS: list[Row] = [
    ("what is it?", [picture(31, 77, 1)]),
    ("which one of the two is it?", [picture(24, 24, 2), picture(90, 20, 3)]),
]


class Shortened:
    """Drops tokens from what a language model is given, and puts further ones behind them.

    Args:
        kept: Places of the tokens that stay.
        image: Whether each of all tokens is an image token.
        further: Embeddings of tokens of the answer, (1, steps, hidden), and the position of the first.
        config: Of the language model.
    """

    def __init__(self, kept: Any, image: Any, further: tuple[Tensor, int], config: Any) -> None:
        self.config = config
        self.kept, self.length = torch.from_numpy(kept), len(image)
        self.image = torch.from_numpy(image)
        self.embeds, self.next = further

    def __call__(self, _: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        steps = self.embeds.shape[1]
        found = {
            key: self._taken(key, value) for key, value in kwargs.items() if key != "input_ids"
        }
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(self.length)[None]
        own = positions[..., self.kept]
        after = self.next + torch.arange(steps).expand(*own.shape[:-1], -1)
        found["position_ids"] = torch.cat([own, after], dim=-1)
        found["inputs_embeds"] = torch.cat([found["inputs_embeds"], self.embeds], dim=1)
        return args, {**found, "cache_position": None, "past_key_values": None, "use_cache": False}

    def _taken(self, key: str, value: Any) -> Any:
        if isinstance(value, dict) and "sliding_attention" in value:
            return self._gemma_masks()
        if isinstance(value, dict):
            return {name: self._taken(key, one) for name, one in value.items()}
        if key == "visual_pos_masks":
            return torch.cat([value[:, self.kept], value.new_zeros(1, self.embeds.shape[1])], dim=1)
        if key == "deepstack_visual_embeds" and value is not None:
            stay = torch.isin(torch.nonzero(self.image)[:, 0], self.kept)
            return [one[stay] for one in value]
        if key == "attention_mask" and value is not None:
            return self._mask(value)
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == self.length:
            return value[:, self.kept]
        return value

    def _gemma_masks(self) -> dict[str, Tensor]:
        """Return Gemma 3's or PaliGemma 2's masks of a prompt that is this short: a window counts the tokens that are there."""
        size = len(self.kept) + self.embeds.shape[1]
        places = torch.arange(size)[None]
        given = {
            "config": self.config,
            "inputs_embeds": torch.zeros(1, size, 1),
            "attention_mask": torch.ones(1, size, dtype=torch.int64),
            "past_key_values": None,
            "position_ids": places,
        }
        if self.config.model_type == "gemma3_text":
            kinds = torch.zeros(1, size, dtype=torch.int64)
            kinds[0, : len(self.kept)] = self.image[self.kept].long()
            blocks = get_block_sequence_ids_for_mask(kinds)
            return create_masks_for_vision_model(**given, block_sequence_ids=blocks)
        blocks = torch.where(places < len(self.kept), 0, -1)
        return {
            "full_attention": create_causal_mask(**given, block_sequence_ids=blocks),
            "sliding_attention": create_sliding_window_causal_mask(
                **given, block_sequence_ids=blocks
            ),
        }

    def _mask(self, mask: Tensor) -> Tensor:
        steps = self.embeds.shape[1]
        if mask.ndim == 2:
            return torch.ones(1, len(self.kept) + steps, dtype=mask.dtype)
        own = mask[:, :, self.kept][..., self.kept]
        # A later token sees all before it; an earlier one sees none of them.
        seen, hidden = (
            (True, False) if mask.dtype == torch.bool else (0.0, torch.finfo(mask.dtype).min)
        )
        size = len(self.kept) + steps
        whole = torch.full((1, own.shape[1], size, size), hidden, dtype=mask.dtype)
        whole[:, :, : len(self.kept), : len(self.kept)] = own
        later = torch.arange(len(self.kept), size)
        whole[:, :, later] = torch.where(
            torch.arange(size) <= later[:, None],
            torch.tensor(seen, dtype=mask.dtype),
            torch.tensor(hidden, dtype=mask.dtype),
        )
        return whole


@contextmanager
def shortened(model: Any, change: Shortened) -> Iterator[None]:
    """Let a model's language model read fewer tokens; the router's own hook runs before."""
    handle = _language_model(model).register_forward_pre_hook(change, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def prepared(edge: EdgeModel, inputs: Any, by: str) -> PreparedPrompt:
    pruning = Pruning(share=0.5, selector=selector_named(by), needs_density=by == "density", seed=1)
    return prepare_prompt(
        edge.sessions,
        edge.processor.family,
        inputs,
        Stopwatch(),
        router=by == "density",
        pruning=pruning,
    )


@pytest.mark.parametrize("by", ["density", "random"])
@pytest.mark.parametrize("row", ROWS)
def test_logits_are_those_of_the_model_on_the_tokens_that_stay(
    twins: Twins, row: Row, by: str
) -> None:
    edge = twins.edge
    inputs = edge.encode(*row)
    prompt = prepared(edge, inputs, by)
    image = inputs.input_ids[0] == edge.manifest.model.image_token_id
    assert len(prompt.dropped[0]) == image.sum() // 2 > 0
    logits, state = edge.sessions.prefill(prompt.embeds, prompt.decoder)
    found, tokens = [logits[0]], [int(logits[0].argmax())]
    for _ in range(STEPS):
        logits = edge.sessions.decode(np.array(tokens[-1:]), state)
        found.append(logits[0])
        tokens.append(int(logits[0].argmax()))
    kept = np.delete(np.arange(len(image)), prompt.dropped[0])
    after = torch.from_numpy(edge.sessions.embed(np.array([tokens[:-1]])))
    text_config = twins.torch.config.get_text_config()
    change = Shortened(kept, image, (after, int(prompt.decoder.next_positions[0])), text_config)
    router = nullcontext() if by == "density" else router_disabled(twins.torch)
    with torch.no_grad(), router, shortened(twins.torch, change):
        given = dict(twins.inputs(row))
        given.pop(
            "labels", None
        )  # PaliGemma's processor adds them, for as many tokens as there were
        expected = twins.torch(**given).logits[0].numpy()
    assert len(expected) == len(kept) + STEPS
    # Float32 in two runtimes over a few layers; logits are of the order of 1.
    np.testing.assert_allclose(np.stack(found), expected[-STEPS - 1 :], atol=1e-4)


@pytest.mark.parametrize("by", ["density", "similarity"])
def test_a_batch_answers_as_its_rows_do(twins: Twins, by: str) -> None:
    rows = [*ROWS, ("no image at all", [])]
    options: Any = {"max_new_tokens": ANSWER, "prune_image_tokens": 0.5, "prune_by": by}
    together = twins.edge.generate([row[0] for row in rows], [row[1] for row in rows], **options)
    alone = [twins.edge.generate(*row, **options) for row in rows]
    assert together.token_ids == tuple(one.token_ids[0] for one in alone)
    assert together.dropped_image_tokens == tuple(one.dropped_image_tokens[0] for one in alone)
