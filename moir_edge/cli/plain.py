"""Print so that terminals can show it: characters that steer a terminal are spelled, and letters that its encoding lacks.

Whatever this process prints passes here: lines, tables, logs, warnings, tracebacks. What comes from a file or a model
cannot clear the screen, recolour a line or rewrite one above.
"""

from __future__ import annotations

import codecs
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Any, TextIO

from moir_edge.printable import printable

__all__ = ["exact_stream", "printable_streams"]

_ERRORS = "moir-edge-plain"
_SPELLINGS = {
    "–": "-", "—": "-", "−": "-", "×": "x", "≤": "<=", "≥": ">=", "→": "->", "←": "<-", "▶": ">", "…": "...", "·": "*",
    "‘": "'", "’": "'", "“": '"', "”": '"', "✓": "yes", "✗": "no", "σ": "sigma", "φ": "phi", "ρ": "rho", "┃": "|", "│": "|",
}  # fmt: skip
_CURSOR_UP = "\x1b[A"


@contextmanager
def printable_streams() -> Iterator[None]:
    """Let standard output and error, inside the block, spell what steers a terminal, and letters that their encoding lacks."""
    codecs.register_error(_ERRORS, _spell)
    before = sys.stdout, sys.stderr
    wrapped = [one for one in before if isinstance(one, TextIOWrapper)]
    errors = [one.errors for one in wrapped]
    for one in wrapped:
        one.reconfigure(errors=_ERRORS)
    sys.stdout, sys.stderr = (_guarded(one, bars=one is sys.stderr) for one in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for one, policy in zip(wrapped, errors, strict=True):
            with suppress(OSError, ValueError):  # its reader is gone, or it is closed
                one.reconfigure(errors=policy)


def exact_stream(stream: TextIO) -> TextIO:
    """Return the stream behind a guarded one, which writes what it is given: colours of a table, bytes for a pipe."""
    return stream.exact if isinstance(stream, _Guarded) else stream


class _Guarded:
    """A text stream that spells what steers a terminal; everything besides writing is the stream's own.

    Args:
        exact: The stream.
        bars: Let other libraries draw bars, where it is a terminal.
    """

    def __init__(self, exact: TextIO, *, bars: bool) -> None:
        self.exact = exact
        self._bars = bars

    def write(self, text: str) -> int:
        """Write a text, spelled."""
        drawn = self._bars and not text.isprintable() and self.exact.isatty()
        self.exact.write(_but_for_bars(text) if drawn else printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts, spelled."""
        for line in lines:
            self.write(line)

    @property
    def rich_proxied_file(self) -> TextIO:
        """Where rich writes, whose tables hold colours; ours spell their cells (`moir_edge.cli.terminal`)."""
        found = self.exact
        while (inner := getattr(found, "rich_proxied_file", None)) is not None:
            found = inner
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.exact)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.exact, name)


def _guarded(stream: TextIO, *, bars: bool) -> TextIO:
    if stream is None or isinstance(stream, _Guarded):  # None where a process has no such stream
        return stream
    return _Guarded(stream, bars=bars)  # type: ignore[return-value]  # it is one by its attributes


def _but_for_bars(text: str) -> str:
    """Return a text spelled, except what draws a bar: going up by lines, and to the start of a line before any text."""
    if text.strip("\n") == _CURSOR_UP * text.count(_CURSOR_UP):
        return text
    return f"\r{printable(text[1:])}" if text.startswith("\r") else printable(text)


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Return the plain spelling of the letters that an encoding lacks, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_plain(letter, error.encoding) for letter in letters), error.end


def _plain(letter: str, encoding: str) -> str:
    """Return a spelling that any encoding has: of an accented letter the letter, of others ``?``."""
    base = unicodedata.normalize("NFKD", letter)
    for candidate in (_SPELLINGS.get(letter, ""), base, base[:1]):
        try:
            candidate.encode(encoding)
        except UnicodeEncodeError:
            continue
        if candidate:
            return candidate
    return "?"
