"""The key-value cache of a batch between two calls of the decoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moir_edge.errors import DataError
from moir_edge.runtime.interface import DecoderInputs, Floats, Ints
from moir_edge.runtime.tensorrt.cache import KeyValues
from moir_edge.runtime.tensorrt.window import DecodeWindow, WindowShelf

__all__ = ["EngineState", "GroupState"]


class EngineState:
    """A batch, as the groups of rows that the engines take at once.

    Args:
        groups: The groups in the order of their rows.
    """

    def __init__(self, groups: Sequence[GroupState]) -> None:
        self._groups = groups

    def step(self, token_ids: Ints) -> Floats:
        """Feed one token per row, (batch,), and return the next logits, (batch, vocab)."""
        logits, first = [], 0
        for group in self._groups:
            logits.append(group.step(token_ids[first : first + group.rows]))
            first += group.rows
        return logits[0] if len(logits) == 1 else np.concatenate(logits)


class GroupState:
    """The cache of one group: as the prompt left it, then in a window once decoding has begun.

    Args:
        shelf: Where the window comes from and goes back to.
        cache: The prompt's cache.
        prompt: What the decoder took of the prompt.
    """

    def __init__(self, shelf: WindowShelf, cache: KeyValues, prompt: DecoderInputs) -> None:
        self.rows, self._tokens = prompt.attention_mask.shape
        self._shelf = shelf
        self._cache: KeyValues | None = cache
        self._prompt = prompt
        self._window: DecodeWindow | None = None
        self._positions = prompt.next_positions

    def __del__(self) -> None:
        if self._window is not None:
            self._shelf.put(self._window)

    def step(self, token_ids: Ints) -> Floats:
        """Feed one token per row, (batch,), and return the next logits, (batch, vocab)."""
        logits = self._room().step(token_ids, self._positions)
        self._positions = self._positions + 1
        self._tokens += 1
        return logits

    def _room(self) -> DecodeWindow:
        """Return a window with an empty slot, which holds the cache."""
        window = self._window
        if window is not None and window.filled < window.slots:
            return window
        if self._tokens >= self._shelf.most:
            raise DataError(f"the engine's cache is full after {self._tokens} tokens")
        larger = self._shelf.take(self.rows, self._tokens)
        larger.set_step(self._prompt.step)
        if self._cache is not None:
            larger.fill(self._cache, self._prompt.attention_mask)
            self._cache = None
        if window is not None:
            window.hand_over(larger)
            self._shelf.put(window)
        self._window = larger
        return larger
