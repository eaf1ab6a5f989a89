"""What all commands share on the terminal: the console for tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["table_console"]

_WIDTH_BEHIND_A_PIPE = 120


def table_console() -> Console:
    """Return a console on standard output, wide enough for a table where there is no terminal to ask."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_BEHIND_A_PIPE)
