"""Every error that moir-edge raises on purpose: one base class, one subclass per kind of broken contract.

A message is one line that says what was got, what was expected and how to fix it; the command line prints it
without a traceback and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BundleError",
    "DataError",
    "EnvironmentProblem",
    "MoirEdgeError",
    "NotFiniteError",
    "ShapeError",
    "ToleranceError",
    "UnsupportedError",
    "closest",
    "one_line",
]


class MoirEdgeError(Exception):
    """Base of every deliberate error; its text is one line fit to be shown to a user."""


class ShapeError(MoirEdgeError):
    """A tensor has another shape, type or range than the operation takes."""


class ToleranceError(MoirEdgeError):
    """A parity check came out above its tolerance."""


class NotFiniteError(MoirEdgeError):
    """A value is NaN or infinite where a number is needed."""


class DataError(MoirEdgeError):
    """An input file, image, prompt or data row cannot be used."""


class BundleError(MoirEdgeError):
    """A bundle is incomplete, changed, or of another schema version."""


class UnsupportedError(MoirEdgeError):
    """The target, precision, operation or architecture is not one that moir-edge handles."""


class EnvironmentProblem(MoirEdgeError):  # noqa: N818 (EnvironmentError is a builtin)
    """Something this machine lacks: a package, disk space, a device."""


_LONGEST = 900
_TAIL = 300


def one_line(error: BaseException | str) -> str:
    """Return the message of an exception, a library's for example, as one line.

    All of its lines are kept, because the cause often stands in a later one; of a very long message beginning and end are. An
    exception without text is named by its class.
    """
    text = " ".join(str(error).split())
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - _TAIL].rstrip()} … {text[-_TAIL:].lstrip()}"
    return text or type(error).__name__


def closest(name: str, known: Iterable[str]) -> str:
    """Return the hint for an unknown name: the nearest known one, and all of them.

    Args:
        name: What the user gave.
        known: The names that exist.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.4)
    listing = ", ".join(names)
    return f"did you mean {near[0]!r}? (known: {listing})" if near else f"known: {listing}"
