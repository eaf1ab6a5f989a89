"""The command line that this process is running, for reports: set by every entry point, None under the Python API."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["command_line", "invoked_as"]

_COMMAND: ContextVar[str | None] = ContextVar("moir_edge_command", default=None)


@contextmanager
def invoked_as(program: str, words: Sequence[str]) -> Iterator[None]:
    """Remember the command line inside the block.

    Args:
        program: How the program is called, such as ``"moir-edge"``.
        words: What the user typed after it, one string per word.
    """
    token = _COMMAND.set(f"{program} {shlex.join(words)}".rstrip())
    try:
        yield
    finally:
        _COMMAND.reset(token)


def command_line() -> str | None:
    """Return the command line as a shell would take it again; None where no entry point set one."""
    return _COMMAND.get()
