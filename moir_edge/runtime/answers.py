"""The answer of one row while it grows: its tokens, the text that is certain, and why it ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from moir_edge.runtime.tokenizer import Tokenizer

__all__ = ["AnswerRow", "FinishReason", "StopStrings"]

FinishReason = Literal["stop_token", "stop_string", "length"]


class StopStrings:
    """Passes text through until a stop string appears in it.

    Text that may be the beginning of a stop string is held back until that is decided. The text of special tokens is
    searched as well, but not passed on.

    Args:
        stops: The strings to stop before; none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self._shown: list[bool] = []  # per character of `_held`

    def push(self, piece: str, *, shown: bool = True) -> tuple[str, bool]:
        """Return the text that may be shown now, and whether a stop string was reached.

        Args:
            piece: The text that follows.
            shown: False for the text of a special token.
        """
        self._held += piece
        self._shown += [shown] * len(piece)
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            certain = self._take(min(found))
            self._held, self._shown = "", []
            return certain, True
        return self._take(len(self._held) - self._undecided()), False

    def finish(self) -> str:
        """Return what was held back."""
        return self._take(len(self._held))

    def _take(self, length: int) -> str:
        """Remove the first characters from what is held, and return those of them that are shown."""
        taken = zip(self._held[:length], self._shown[:length], strict=True)
        text = "".join(letter for letter, shown in taken if shown)
        self._held, self._shown = self._held[length:], self._shown[length:]
        return text

    def _undecided(self) -> int:
        """Return the length of the longest end of what is held that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0


class AnswerRow:
    """One row's answer; its text begins with the first character that is not white space.

    Args:
        tokenizer: Decodes the tokens.
        limit: Tokens at most.
        stop_token_ids: Tokens that end the answer; the one that does is kept in `token_ids`.
        stop: Strings that end the answer and are not part of its text; the text of a special token counts.
    """

    def __init__(
        self, tokenizer: Tokenizer, limit: int, stop_token_ids: Collection[int], stop: Sequence[str]
    ) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self._limit = limit
        self._stop_token_ids = frozenset(stop_token_ids)
        self._special = tokenizer.special_texts
        self._growing = tokenizer.grow()
        self._stops = StopStrings(stop)

    def push(self, token_id: int) -> str:
        """Add a token and return the text that became certain; a finished row takes no more."""
        if self.finish_reason is not None:
            return ""
        self.token_ids.append(token_id)
        ended = token_id in self._stop_token_ids
        piece, stopped = ("", False) if ended else self._search(token_id)
        if stopped:
            self.finish_reason = "stop_string"
        elif ended or len(self.token_ids) >= self._limit:
            self.finish_reason = "stop_token" if ended else "length"
            rest, _ = self._stops.push(self._growing.finish())
            piece += rest + self._stops.finish()
        if not self.text:
            piece = piece.lstrip()
        self.text += piece
        return piece

    def _search(self, token_id: int) -> tuple[str, bool]:
        """Return the token's certain text and whether a stop string ends with it."""
        piece, stopped = self._stops.push(self._growing.push(token_id))
        special = self._special.get(token_id)
        if stopped or special is None:
            return piece, stopped
        more, stopped = self._stops.push(special, shown=False)
        return piece + more, stopped
