"""Keys and values of earlier prompts, so that the next turn of a conversation runs what is new in it and no more."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.runtime.interface import (
    ContinuingSessions,
    DecoderInputs,
    Embeds,
    Floats,
    Sessions,
)

__all__ = ["DEFAULT_PROMPT_CACHE_BYTES", "Prefilled", "PromptCache"]

DEFAULT_PROMPT_CACHE_BYTES = 256 << 20
"""What `serve` and `chat` keep: 5,800 tokens of SmolVLM-256M, in one prompt or several."""

_FEWEST = 16
"""Tokens that both prompts begin with at least; fewer are faster to compute than to look for."""

_BLOCK = 16
"""Attention on the CPU takes the tokens of a run in blocks whose length is a multiple of this.

Linear layers and attention give a token the same bits whichever tokens run with it, but not to one that runs alone: it gets
kernels for one row. Where a run ends one token past a block, that token is alone in attention.
"""


@dataclass(frozen=True, kw_only=True)
class Prefilled:
    """A prompt that the decoder has read.

    Attributes:
        logits: (batch, vocab), of the last position.
        state: To decode from.
        known: Tokens that were not computed.
        rows: What the decoder took, one row for each token; None where the prompt is not to be kept.
    """

    logits: Floats
    state: Any
    known: int = 0
    rows: Mapping[str, npt.NDArray[Any]] | None = None


class PromptCache:
    """Keeps decoder states of prompts of one row, the least recently used going first.

    A prompt goes on from the longest beginning that it shares with a kept one: the same numbers, after the router, in the
    same positions. Only tokens that ran among others are taken over, and others are run with them: answers have the bits that
    they have without a hit. So what was computed for an answer is computed again as part of the next prompt. A state is taken
    out while a prompt uses it.

    Args:
        most_bytes: Of the states that are kept; 0 keeps none.

    Attributes:
        hits: Prompts that went on from an earlier one.
        misses: Prompts that could have, and did not.
        tokens: Tokens that were not computed.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: list[_Entry] = []  # the last used stands last
        self._lock = threading.Lock()
        self.hits = self.misses = self.tokens = 0

    def prefill(self, sessions: Sessions, embeds: Embeds, decoder: DecoderInputs) -> Prefilled:
        """Run a batch of prompts, from what is known of a single one.

        Args:
            sessions: The bundle's graphs; always those of one model.
            embeds: (batch, sequence, hidden), left-padded.
            decoder: What the decoder takes besides.
        """
        single = self._most_bytes and len(decoder.attention_mask) == 1
        if not single or not isinstance(sessions, ContinuingSessions) or not sessions.continues:
            logits, state = sessions.prefill(embeds, decoder)
            return Prefilled(logits=logits, state=state)
        rows = _rows(sessions.to_numpy(embeds), decoder)
        entry, known = self._taken(rows)
        if entry is None:
            logits, state = sessions.prefill(embeds, decoder)
        else:
            logits, state = sessions.continue_from(entry.state, known, embeds, decoder)
        return Prefilled(logits=logits, state=state, known=known, rows=rows)

    def keep(self, prompt: Prefilled) -> None:
        """Keep a prompt once nothing decodes from its state any more."""
        if prompt.rows is None:
            return
        entry = _Entry(rows=prompt.rows, state=prompt.state)
        if entry.bytes > self._most_bytes:
            return
        with self._lock:
            self._kept.append(entry)
            while sum(one.bytes for one in self._kept) > self._most_bytes:
                self._kept.pop(0)

    def _taken(self, rows: Mapping[str, npt.NDArray[Any]]) -> tuple[_Entry | None, int]:
        """Take out the entry that shares the longest beginning, unless most of what it holds would be lost."""
        with self._lock:
            found: tuple[_Entry | None, int] = (None, 0)
            for entry in self._kept:
                known = _usable(_shared(entry.rows, rows), entry.tokens, _tokens(rows))
                if known >= max(_FEWEST, entry.tokens / 2, found[1] + 1):
                    found = entry, known
            if found[0] is None:
                self.misses += 1
            else:
                self._kept.remove(found[0])
                self.hits += 1
                self.tokens += found[1]
            return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Entry:
    """A prompt, row by row, and the state that holds its keys and values."""

    rows: Mapping[str, npt.NDArray[Any]]
    state: Any

    @property
    def tokens(self) -> int:
        return _tokens(self.rows)

    @property
    def bytes(self) -> int:
        own: int = self.state.bytes
        return own + sum(array.nbytes for array in self.rows.values())


def _tokens(rows: Mapping[str, npt.NDArray[Any]]) -> int:
    return len(rows["inputs_embeds"])


def _usable(shared: int, kept: int, tokens: int) -> int:
    """Return how many tokens can be taken over, so that neither they nor the rest hold one that ran alone.

    Args:
        shared: Tokens at the start of both prompts.
        kept: Tokens of the earlier prompt.
        tokens: Tokens of the new one.
    """
    if tokens % _BLOCK == 1:
        return 0  # as a whole prompt, its last token would be alone
    known = min(shared, kept - 1, tokens - 2)
    return known - ((tokens - known) % _BLOCK == 1)


def _rows(embeds: Floats, decoder: DecoderInputs) -> dict[str, npt.NDArray[Any]]:
    """Return the bits that the decoder takes of a prompt of one row, (sequence, …) each."""
    given = {
        "inputs_embeds": embeds[0],
        # (axes, batch, sequence) or (batch, sequence)
        "position_ids": decoder.position_ids[..., 0, :].T,
        **{name: array[0] for name, array in decoder.further.items()},
    }
    return {
        name: _bits(array).reshape(len(array), -1)  # (sequence, numbers of a token)
        for name, array in given.items()
    }


def _bits(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return numbers as their bits: zeros have a sign, and NaN is not equal to itself."""
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


def _shared(kept: Mapping[str, npt.NDArray[Any]], given: Mapping[str, npt.NDArray[Any]]) -> int:
    """Return how many tokens at the start of two prompts are the same in everything."""
    if kept.keys() != given.keys():
        return 0
    length = min(_tokens(kept), _tokens(given))
    for name in ("position_ids", *kept):
        one, other = kept[name], given[name]
        if one.shape[1:] != other.shape[1:] or one.dtype != other.dtype:
            return 0
        differs = (one[:length] != other[:length]).any(axis=1)
        if differs.any():
            length = int(differs.argmax())
    return length
