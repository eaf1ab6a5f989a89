"""A decoder whose graph takes the cache and returns it grown: any provider runs it, and each step copies the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.runtime.component import Component, placed
from moir_edge.runtime.interface import DecoderInputs, Embeds, Floats, Ints, cache_names

__all__ = ["GrowingDecoder", "GrowingState", "cache_pairs"]


def cache_pairs(layers: int) -> dict[str, str]:
    """Return the inputs that hold the cache, layer by layer, each with the output that gives it grown."""
    past, present = (cache_names(name, layers) for name in ("past_key_values", "present"))
    return dict(zip(past, present, strict=True))


@dataclass
class GrowingState:
    """The key-value cache of a batch, kept where the provider computes.

    Attributes:
        values: One ONNX Runtime value per layer and key or value,
            (batch, kv_heads, past_sequence, head_dim) float32.
        attention_mask: (batch, past_sequence) int64.
        prompt: What the decoder took of the prompt.
        steps: Tokens that were generated.
    """

    values: list[Any]
    attention_mask: Ints
    prompt: DecoderInputs
    steps: int = 0


class GrowingDecoder:
    """Runs ``decoder.onnx``.

    Args:
        component: Its session.
        facts: What the manifest says of the model.
        device: ONNX Runtime's name of the memory that holds the cache.
    """

    def __init__(self, component: Component, facts: ModelFacts, device: str) -> None:
        self._component, self._facts, self._device = component, facts, device
        pairs = cache_pairs(facts.num_layers)
        self._past_names = list(pairs)
        self._outputs = {"logits": "cpu", **dict.fromkeys(pairs.values(), device)}

    def prefill(self, embeds: Embeds, decoder: DecoderInputs) -> tuple[Floats, GrowingState]:
        """Run the prompt; see `Sessions.prefill`."""
        facts, mask = self._facts, decoder.attention_mask
        empty = np.zeros((len(mask), facts.num_kv_heads, 0, facts.head_dim), np.float32)
        past = [placed(empty, self._device)] * len(self._past_names)
        state = GrowingState(past, mask[:, :0], decoder)
        if isinstance(embeds, np.ndarray):
            embeds = placed(embeds, self._device)
        feed = {"inputs_embeds": embeds, "position_ids": decoder.position_ids, **decoder.further}
        return self._step(feed, mask, state), state

    def decode(self, embeds: Embeds, state: GrowingState) -> Floats:
        """Feed one token per row, (batch, 1, hidden), and return the next logits, (batch, vocab)."""
        prompt = state.prompt
        feed = {
            "inputs_embeds": embeds,
            "position_ids": prompt.positions_after(state.steps),
            **prompt.step,
        }
        state.steps += 1
        new = np.ones((len(state.attention_mask), 1), dtype=np.int64)
        return self._step(feed, new, state)

    def _step(self, inputs: Mapping[str, Any], new_mask: Ints, state: GrowingState) -> Floats:
        """Run the decoder; the cache goes in and out as ONNX Runtime values, never through numpy."""
        state.attention_mask = np.concatenate([state.attention_mask, new_mask], axis=1)
        feed = {
            **inputs,
            "attention_mask": state.attention_mask,
            **dict(zip(self._past_names, state.values, strict=True)),
        }
        logits, *state.values = self._component.values(feed, self._outputs)
        last: Floats = logits.numpy()[:, -1]
        return last
