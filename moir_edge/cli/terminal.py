"""What all commands share on the terminal: one progress bar, silent behind a pipe, and a console for tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ProgressCallback", "progress_bar", "table_console"]

_WIDTH_BEHIND_A_PIPE = 120

ProgressCallback = Callable[[str, int, int], None]
"""Called as ``callback(stage, done, total)``; a new stage name starts a new line."""


@contextmanager
def progress_bar(*, quiet: bool = False) -> Iterator[ProgressCallback]:
    """Give a callback that draws the stages of long work.

    Args:
        quiet: Draw nothing, as `--json` wants it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<28}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        tasks: dict[str, int] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)  # type: ignore[arg-type]

        yield update


def table_console() -> Console:
    """Return a console on standard output, wide enough for a table where there is no terminal to ask."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_BEHIND_A_PIPE)
