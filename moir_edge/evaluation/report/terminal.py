"""One table of figures in the terminal, cut into blocks where a terminal is too narrow for all its columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from moir_edge.printable import printable, single_line

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["column_blocks", "print_figures"]

Rows = Sequence[tuple[str, Sequence[str]]]

_BORDER = 3  # a line and a space on both sides of each cell
_HEAD_WIDTH = 23  # a longer heading is folded


def print_figures(console: Console, title: str, head: Sequence[str], rows: Rows) -> None:
    """Print a table; columns that do not fit beside each other follow in a table of their own.

    Args:
        console: Where to print; its width decides.
        title: Above the table, with the number of the block where there are several.
        head: One heading per column; a line feed starts a second line.
        rows: Name of the row, and one cell per column. Text is shown as it is, with what steers a terminal spelled.
    """
    from rich.table import Table
    from rich.text import Text

    blocks = list(column_blocks(console.width, head, rows))
    for number, block in enumerate(blocks, start=1):
        place = f" ({number} of {len(blocks)})" if len(blocks) > 1 else ""
        table = Table(title=Text(single_line(f"{title}{place}")), title_justify="left")
        table.add_column("", overflow="fold")
        for at in block:
            table.add_column(Text(printable(head[at])), justify="right", overflow="fold")
        for name, cells in rows:
            shown = (name, *(cells[at] for at in block))
            table.add_row(*(Text(single_line(cell)) for cell in shown))
        console.print(table)


def column_blocks(width: int, head: Sequence[str], rows: Rows) -> Iterator[range]:
    """Yield the columns of each block: as many as fit with their cells in one line, and at least one.

    Args:
        width: Of the terminal, in letters.
        head: One heading per column.
        rows: Name of the row, and one cell per column.
    """
    names = max((len(name) for name, _ in rows), default=0) + _BORDER + 1
    start, used = 0, names
    for at, heading in enumerate(head):
        longest = max((len(line) for line in heading.split("\n")), default=0)
        cells = max((len(cells[at]) for _, cells in rows), default=0)
        wanted = max(min(longest, _HEAD_WIDTH), cells) + _BORDER
        if at > start and used + wanted > width:
            yield range(start, at)
            start, used = at, names
        used += wanted
    yield range(start, len(head))
