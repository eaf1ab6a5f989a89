"""The answer of one row while it grows: its tokens, the text that is certain, and why it ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from moir_edge.runtime.tokenizer import Tokenizer

__all__ = ["AnswerRow", "FinishReason", "StopStrings"]

FinishReason = Literal["stop_token", "stop_string", "length"]


class StopStrings:
    """Passes text through until a stop string appears in it.

    Text that may be the beginning of a stop string is held back until that is decided.

    Args:
        stops: The strings to stop before; none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """Return the text that may be shown now, and whether a stop string was reached."""
        text = self._held + piece
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def finish(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """Return the length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


class AnswerRow:
    """One row's answer.

    Args:
        tokenizer: Decodes the tokens.
        limit: Tokens at most.
        stop_token_ids: Tokens that end the answer; the one that does is kept in `token_ids`.
        stop: Strings that end the answer and are not part of its text.
    """

    def __init__(
        self, tokenizer: Tokenizer, limit: int, stop_token_ids: Collection[int], stop: Sequence[str]
    ) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self._limit = limit
        self._stop_token_ids = frozenset(stop_token_ids)
        self._growing = tokenizer.grow()
        self._stops = StopStrings(stop)

    def push(self, token_id: int) -> str:
        """Add a token and return the text that became certain; a finished row takes no more."""
        if self.finish_reason is not None:
            return ""
        self.token_ids.append(token_id)
        ended = token_id in self._stop_token_ids
        piece, stopped = self._stops.push("" if ended else self._growing.push(token_id))
        if stopped:
            self.finish_reason = "stop_string"
        elif ended or len(self.token_ids) >= self._limit:
            self.finish_reason = "stop_token" if ended else "length"
            rest, _ = self._stops.push(self._growing.finish())
            piece += rest + self._stops.finish()
        self.text += piece
        return piece
