"""Print on terminals that lack a letter: what they cannot show becomes its nearest plain spelling, never an error."""

from __future__ import annotations

import codecs
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper

__all__ = ["printable_streams"]

_ERRORS = "moir-edge-plain"
_SPELLINGS = {
    "–": "-", "—": "-", "−": "-", "×": "x", "≤": "<=", "≥": ">=", "→": "->", "←": "<-", "▶": ">", "…": "...", "·": "*",
    "‘": "'", "’": "'", "“": '"', "”": '"', "✓": "yes", "✗": "no", "σ": "sigma", "φ": "phi", "ρ": "rho", "┃": "|", "│": "|",
}  # fmt: skip


@contextmanager
def printable_streams() -> Iterator[None]:
    """Let standard output and error spell plainly, inside the block, what their encoding does not have."""
    codecs.register_error(_ERRORS, _spell)
    streams = [one for one in (sys.stdout, sys.stderr) if isinstance(one, TextIOWrapper)]
    before = [one.errors for one in streams]
    for one in streams:
        one.reconfigure(errors=_ERRORS)
    try:
        yield
    finally:
        for one, errors in zip(streams, before, strict=True):
            with suppress(OSError, ValueError):  # its reader is gone, or it is closed
                one.reconfigure(errors=errors)


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
