"""A decoder whose graph writes keys and values into a window with room for more, so that no step copies the cache.

Its rows are padded on the right: each row's tokens stand at the start of its window, and `seqlens_k` tells where they end.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import BundleError
from moir_edge.runtime.component import Component, placed
from moir_edge.runtime.interface import (
    Array,
    DecoderInputs,
    Embeds,
    Floats,
    Ints,
    cache_names,
)

__all__ = ["LENGTHS", "WindowDecoder", "WindowState"]

LENGTHS = "seqlens_k"
"""The input that tells a graph of this kind: each row's tokens less one, this run's included."""

_ROOM = 256
"""Free places of a new window at least; an unused one is address space and no memory."""

_SCORE_BYTES = 1 << 26
"""Bytes of attention scores that one run may take; a longer prompt goes in parts."""

_OFF_STEP = 48
"""Places that no token gets: heads that lie a power of two apart take the same lines of a processor's cache."""

_LINE = 64  # bytes

_FEWEST = 128
"""Tokens of a part at least: fewer would multiply matrices of few rows."""


@dataclass
class WindowState:
    """The key-value cache of a batch.

    Attributes:
        lengths: (batch,) int64, tokens of each row.
        cache: Arrays by input name, (batch, kv_heads, window, head_dim) float32.
        prompt: What the decoder took of the prompt.
        steps: Tokens that were generated.
    """

    lengths: Ints
    cache: dict[str, Floats]
    prompt: DecoderInputs
    steps: int = 0
    bound: _Bound | None = field(default=None, repr=False)

    def given_away(self) -> dict[str, Floats]:
        """Return the cache for another state; this one has none afterwards."""
        cache, self.cache, self.bound = self.cache, {}, None
        return cache

    @property
    def bytes(self) -> int:
        """Bytes of the cache, those of unused places among them."""
        return sum(array.nbytes for array in self.cache.values())

    @property
    def window(self) -> int:
        """Places of a row."""
        return int(next(iter(self.cache.values())).shape[2])


class _Bound:
    """Inputs and outputs of runs of one shape, bound once; a run changes numbers, not arrays.

    Args:
        component: The decoder.
        feed: Arrays by input name; kept, and read at each run.
        cache: Keys and values by input name; each is an output too.
        logits: Takes the logits, (batch, 1, vocab).
        give_back: Give the memory of activations back after each run.
    """

    def __init__(
        self,
        component: Component,
        feed: Mapping[str, Array],
        cache: Mapping[str, Floats],
        logits: Floats,
        *,
        give_back: bool,
    ) -> None:
        self.feed, self.logits = feed, logits
        kept = {name: placed(array, "cpu") for name, array in cache.items()}
        present = {
            name.replace("past_key_values", "present"): value for name, value in kept.items()
        }
        inputs = {**{name: placed(array, "cpu") for name, array in feed.items()}, **kept}
        self.run = component.bound(
            inputs, {"logits": placed(logits, "cpu"), **present}, give_back=give_back
        )


class WindowDecoder:
    """Runs ``decoder.fused.onnx`` on the CPU.

    Args:
        component: Its session.
        facts: What the manifest says of the model.
    """

    def __init__(self, component: Component, facts: ModelFacts) -> None:
        self._component, self._facts = component, facts
        # About how many query heads there are; no fact says it, and it only bounds memory.
        self._heads = max(facts.num_kv_heads, facts.hidden_size // facts.head_dim)
        self._cache_names = cache_names("past_key_values", facts.num_layers)
        self._inputs = frozenset(component.inputs)

    def prefill(
        self,
        embeds: Embeds,
        decoder: DecoderInputs,
        *,
        after: WindowState | None = None,
        known: int = 0,
    ) -> tuple[Floats, WindowState]:
        """Run the prompt; see `Sessions.prefill`.

        Args:
            embeds: (batch, sequence, hidden), left-padded.
            decoder: What the decoder takes besides.
            after: The state of an earlier prompt of one row, whose cache goes over to the new state; it is of no use afterwards.
            known: How many tokens, fewer than there are, are at the start of both prompts, with the same embeddings, positions
                and further inputs.

        Raises:
            BundleError: The graph counts tokens one by one and the prompt's positions have gaps.
        """
        mask = decoder.attention_mask
        lengths = mask.sum(axis=1)
        cache = self._empty(len(mask), int(lengths.max())) if after is None else after.given_away()
        state = WindowState(lengths, cache, decoder)
        self._make_room(state)
        rows = embeds if isinstance(embeds, np.ndarray) else embeds.numpy()
        inputs = {
            "inputs_embeds": rows,
            "position_ids": decoder.position_ids,
            **decoder.further,
        }
        started = _started(inputs, mask)
        if _counted(started["position_ids"], lengths) and (decoder.next_positions == lengths).all():
            return self._run(started, lengths, state, known), state
        if "position_ids" not in self._inputs:
            raise BundleError(
                f"{self._component.name} counts the tokens of a prompt one by one, and this prompt's positions have gaps; "
                "export the bundle again"
            )
        if started["position_ids"].ndim == 3:  # the graph turns each token by its own angles
            return self._run(started, lengths, state, known), state
        return self._run_each(started, state, known), state

    def decode(self, embeds: Embeds, state: WindowState) -> Floats:
        """Feed one token per row, (batch, 1, hidden), and return the next logits, (batch, vocab)."""
        state.lengths = state.lengths + 1
        self._make_room(state)
        if state.bound is None:
            state.bound = self._bound_step(embeds, state)
        feed = state.bound.feed
        feed["inputs_embeds"][:] = embeds
        if "position_ids" in feed:
            feed["position_ids"][:] = state.prompt.positions_after(state.steps)
        feed[LENGTHS][:] = state.lengths - 1
        feed["total_sequence_length"][...] = state.lengths.max()
        state.steps += 1
        state.bound.run()
        return state.bound.logits[:, 0].copy()

    def _bound_step(self, embeds: Floats, state: WindowState) -> _Bound:
        """Bind the arrays of a step; they are written before each run."""
        batch = len(state.lengths)
        positions = state.prompt.positions_after(state.steps)
        feed: dict[str, Array] = {
            "inputs_embeds": np.array(embeds, np.float32, order="C"),
            "position_ids": np.array(positions, np.int64, order="C"),
            "last_token": np.zeros((batch, 1), np.int64),
            **{name: np.ascontiguousarray(one) for name, one in state.prompt.step.items()},
        }
        return self._bind(feed, state, give_back=False)

    def _run_each(self, inputs: Mapping[str, Array], state: WindowState, known: int) -> Floats:
        """Run a prompt whose positions have gaps, row by row: GroupQueryAttention takes later parts of one row alone."""
        logits = []
        for row, length in enumerate(state.lengths):
            rows = slice(row, row + 1)
            own = {name: array[rows, :length] for name, array in inputs.items()}
            cache = {name: array[rows] for name, array in state.cache.items()}
            alone = WindowState(state.lengths[rows], cache, state.prompt)
            logits.append(self._run(own, alone.lengths, alone, known, gaps=True))
        return np.concatenate(logits)

    def _run(
        self,
        inputs: Mapping[str, Array],
        lengths: Ints,
        state: WindowState,
        known: int,
        *,
        gaps: bool = False,
    ) -> Floats:
        """Run a prompt from the first token that is not in the cache, one row's in parts where its scores would take much memory.

        GroupQueryAttention takes a run whose tokens are all there are for a first prompt, reads its first position alone and
        counts on from there. Where a prompt has `gaps`, one token more is announced, so that each position is read.
        """
        batch, sequence = inputs["inputs_embeds"].shape[:2]
        step = sequence if batch > 1 else self._part(sequence)
        logits = np.empty((batch, self._facts.vocab_size), np.float32)
        for start in range(known, sequence, step):
            stop = min(start + step, sequence)
            part: dict[str, Array] = {
                name: np.ascontiguousarray(_cut(name, array, start, stop))
                for name, array in inputs.items()
            }
            ends = np.minimum(lengths, stop) if batch == 1 else lengths
            part["last_token"] = (ends - start - 1)[:, None]
            bound = self._bind(part, state, give_back=True)
            bound.feed[LENGTHS][:] = ends - 1
            bound.feed["total_sequence_length"][...] = stop + (gaps and start == 0)
            bound.run()
            logits = bound.logits[:, 0]
        return logits

    def _part(self, sequence: int) -> int:
        """Return how many tokens of a row of `sequence` tokens go in at once."""
        fitting = _SCORE_BYTES // (4 * self._heads * sequence)
        return max(_FEWEST, fitting // _FEWEST * _FEWEST)

    def _bind(self, feed: dict[str, Array], state: WindowState, *, give_back: bool) -> _Bound:
        batch = len(state.lengths)
        feed[LENGTHS] = np.zeros(batch, np.int32)
        feed["total_sequence_length"] = np.zeros((), np.int32)
        taken = {name: array for name, array in feed.items() if name in self._inputs}
        logits = np.empty((batch, 1, self._facts.vocab_size), np.float32)
        return _Bound(self._component, taken, state.cache, logits, give_back=give_back)

    def _empty(self, batch: int, tokens: int) -> dict[str, Floats]:
        facts = self._facts
        longest = max(facts.context_length, tokens + 1)
        window = min(longest, _rounded(tokens + _ROOM)) + _OFF_STEP
        shape = (batch, facts.num_kv_heads, window, facts.head_dim)
        return _mapped_zeros(self._cache_names, shape)

    def _make_room(self, state: WindowState) -> None:
        """Move the cache to a wider window where the next token finds no place."""
        needed = int(state.lengths.max())
        if needed <= state.window:
            return
        wider = self._empty(len(state.lengths), 2 * needed)
        for name, old in state.cache.items():
            wider[name][:, :, : old.shape[2]] = old
            state.cache[name] = wider[name]
        state.bound = None


def _counted(positions: Ints, lengths: Ints) -> bool:
    """Say whether the positions of all tokens are 0, 1, 2 and so on; rows are padded on the right."""
    counted = np.arange(positions.shape[-1])
    return not (positions != counted)[..., counted < lengths[:, None]].any()


def _rounded(tokens: int) -> int:
    """Return a window for so many tokens: a power of two, so that few sizes occur."""
    return 1 << (tokens - 1).bit_length()


def _mapped_zeros(names: Sequence[str], shape: tuple[int, ...]) -> dict[str, Floats]:
    """Return zeros by name; a page takes memory once it is written, and all go back to the system with the last array.

    The C library's own zeros may come from memory that was freed before: that is written with zeros, page by page.
    """
    size = math.prod(shape)
    stride = (
        -(-size * 4 // _LINE) * _LINE // 4
    )  # each array begins with a line of the processor's cache
    room = np.frombuffer(mmap.mmap(-1, max(1, stride * len(names)) * 4), np.float32)
    starts = range(0, stride * len(names), max(1, stride))
    return {
        name: room[start : start + size].reshape(shape)
        for name, start in zip(names, starts, strict=True)
    }


def _started(inputs: Mapping[str, Array], mask: Ints) -> Mapping[str, Array]:
    """Return the inputs with the padding of each row moved from its start to its end."""
    sequence = mask.shape[1]
    padding = sequence - mask.sum(axis=1)
    if not padding.any():
        return inputs
    places = (np.arange(sequence) + padding[:, None]) % sequence
    return {name: _taken(name, array, places) for name, array in inputs.items()}


def _taken(name: str, array: Array, places: Ints) -> Array:
    """Return the tokens of each row in another order; `places` (batch, sequence) are those of `array`."""
    if name == "position_ids" and array.ndim == 3:
        return np.take_along_axis(array, places[None], axis=2)
    index = places.reshape(*places.shape, *[1] * (array.ndim - 2))
    return np.take_along_axis(array, index, axis=1)


def _cut(name: str, array: Array, start: int, stop: int) -> Array:
    """Return some tokens of every row."""
    if name == "position_ids" and array.ndim == 3:
        return array[:, :, start:stop]
    return array[:, start:stop]
