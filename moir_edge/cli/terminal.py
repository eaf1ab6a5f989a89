"""Consoles for tables, shared by all commands, and tables that do not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["print_table", "table_console"]

_WIDTH_BEHIND_A_PIPE = 120


def table_console() -> Console:
    """Return a console on standard output, wide enough for a table where there is not a terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_BEHIND_A_PIPE)


def print_table(table: Table, console: Console) -> None:
    """Print a table; where the terminal is too narrow for its longest words, print a paragraph per row instead.

    Args:
        table: Its cells are text.
        console: Where to print; its width decides.
    """
    roomy = console.options.update(max_width=10_000)
    if table.__rich_measure__(console, roomy).minimum <= console.width:
        console.print(table, highlight=False)
        return
    heads = [str(column.header) for column in table.columns]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        first, *others = map(str, row)
        console.print(first, style="bold", highlight=False, markup=False, overflow="fold")
        for head, cell in zip(heads[1:], others, strict=True):
            if cell:
                text = f"  {head}: {cell}"
                console.print(text, highlight=False, markup=False, overflow="fold")
