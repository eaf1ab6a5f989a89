"""Print lines, JSON, answers and tables, alike in all commands; what comes from files and models cannot steer the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from moir_edge.cli.plain import exact_stream
from moir_edge.printable import json_printable, single_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["new_console", "print_json", "print_piece", "print_table", "say", "table_console"]

_WIDTH_BEHIND_A_PIPE = 120


def say(text: str, *, err: bool = False) -> None:
    """Print one line at once, to standard output by default; line feeds in it, as of a file's name, are spelled."""
    stream = sys.stderr if err else sys.stdout
    if stream is not None:  # it may have been closed before the process started
        print(single_line(text), file=stream, flush=True)


def print_json(record: Any) -> None:
    """Print plain data as JSON; text is taken as JSON already. The value is exact, with steering characters spelled as JSON does."""
    from moir_edge.finite import json_text

    text = record if isinstance(record, str) else json_text(record, indent=1, ensure_ascii=False)
    print(json_printable(text, getattr(sys.stdout, "encoding", None)), flush=True)  # noqa: T201


def print_piece(text: str) -> None:
    """Print a piece of a model's answer at once, without a line's end: as it is into a pipe or file, spelled on a terminal."""
    stream = sys.stdout
    if stream is None:
        return
    if not stream.isatty():
        stream = exact_stream(stream)
    stream.write(text)
    stream.flush()


def new_console(*, err: bool = False, width: int | None = None) -> Console:
    """Return a console on standard output or error that takes text as it is: no markup, no emoji codes, no steering.

    Args:
        err: Standard error.
        width: Characters; by default the terminal's.
    """
    from moir_edge.cli.rich_console import PlainConsole

    return PlainConsole(
        file=exact_stream(sys.stderr if err else sys.stdout),
        stderr=err,
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
    )


def table_console(width_behind_a_pipe: int = _WIDTH_BEHIND_A_PIPE) -> Console:
    """Return a console on standard output, wide enough for a table where there is not a terminal.

    Args:
        width_behind_a_pipe: Characters.
    """
    console = new_console()
    return console if console.is_terminal else new_console(width=width_behind_a_pipe)


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
