r"""Show text of files and models on a terminal or page: characters that steer it become visible, as ``\x1b`` for escape.

Terminals obey control characters (C0 and C1), and draw a line in another order after the controls of writing direction.
"""

from __future__ import annotations

import re

__all__ = ["bounded", "json_printable", "printable", "single_line"]

# C0 without tab and line feed, DEL and C1; line and paragraph separators; overrides, embeddings and isolates of the
# writing direction; halves of characters, by which Python holds the bytes of a name that is not UTF-8;
# and what is no character, which XML refuses.
_STEERING = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
_STEERING_IN_JSON = "[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
_NOT_ASCII = "[^\x00-\x7f]"
_UNDECODED = range(0xDC80, 0xDD00)


def printable(text: str) -> str:
    """Return a text whose steering characters are spelled; tabs and line feeds stay.

    A text without such characters is returned as it is, and so is one that was spelled before.
    """
    # Patterns are compiled where they are needed: most commands print nothing that they match.
    if text.isprintable() or text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return re.sub(_STEERING, _spelled, text)


def single_line(text: str) -> str:
    """Return a text that stands in one line: line feeds and tabs are spelled too, as in a file's name."""
    return printable(text).replace("\n", r"\n").replace("\t", r"\t")


def json_printable(text: str, encoding: str | None = None) -> str:
    r"""Return JSON text of the same value, in which steering characters are spelled as JSON does, ``\u009b``.

    Args:
        text: JSON.
        encoding: Of where it is printed; letters that it lacks are spelled too. All of Unicode by default.
    """
    if not text.replace("\n", "").isprintable():
        text = re.sub(_STEERING_IN_JSON, _json_spelled, text)
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return re.sub(_NOT_ASCII, _json_spelled, text)
    return text


def bounded(text: str, longest: int) -> str:
    """Return a text of at most about this many characters: of a longer one, beginning and end.

    Args:
        text: The end of a message often says what to do, so a third of the room is the end's.
        longest: Characters.
    """
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail].rstrip()} … {text[-tail:].lstrip()}"


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code in _UNDECODED:
        code -= 0xDC00
    return rf"\x{code:02x}" if code < 0x100 else rf"\u{code:04x}"


def _json_spelled(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(rf"\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
