"""Every error that moir-edge raises on purpose: one base class, one subclass per kind of broken contract.

A message is one line that says what was got, what was expected and how to fix it; the command line prints it
without a traceback and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from moir_edge.printable import bounded, printable

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

_LONGEST = (
    2_000  # characters of a message: names and lists in it come from files, and may have any length
)
_LONGEST_NAME = 100  # characters of a name that is looked for among the known ones
_LONGEST_QUOTED = 900  # of another library's message within ours


class MoirEdgeError(Exception):
    """Base of every deliberate error; its text is one line of bounded length, fit to be shown on a terminal."""

    def __str__(self) -> str:
        """Return the message as `one_line` does."""
        return _line(super().__str__(), _LONGEST)


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


def one_line(error: BaseException | str) -> str:
    """Return the message of an exception, a library's for example, as one line.

    All of its lines are kept, because the cause often stands in a later one; of a very long message beginning and end are.
    Characters that steer a terminal are spelled. An exception without text is named by its class.
    """
    return _line(str(error), _LONGEST_QUOTED) or type(error).__name__


def closest(name: str, known: Iterable[str]) -> str:
    """Return the hint for an unknown name: the nearest known one, and all of them.

    Args:
        name: What the user gave.
        known: The names that exist.
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name)[:_LONGEST_NAME].lower(), names, n=1, cutoff=0.4)
    listing = ", ".join(names)
    return f"did you mean {near[0]!r}? (known: {listing})" if near else f"known: {listing}"


def _line(text: str, longest: int) -> str:
    if not text.isprintable():  # line feeds among others; runs of spaces within a name stay
        text = printable(" ".join(text.split()))
    return bounded(text, longest)
