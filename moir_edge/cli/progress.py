"""Progress of the commands on standard error: a bar on a terminal, one line per stage anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from moir_edge.cli.plain import printable_streams
from moir_edge.cli.terminal import new_console
from moir_edge.printable import single_line
from moir_edge.progress import Progress, silent

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Quiet", "StageLines", "show_progress"]

_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_WORTH_A_LINE = 1.0
_NARROW_TERMINAL = 60

Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Show no progress; print results and errors only.")
]


@contextmanager
def show_progress(command: str, *, quiet: bool = False) -> Iterator[Progress]:
    """Yield a callback that shows the stages of long work on standard error.

    Args:
        command: The command's name, which starts every line.
        quiet: Show nothing.
    """
    if quiet:
        yield silent
        return
    console = new_console(err=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield StageLines(command, sys.stderr)
        return
    with _bar(command, console) as progress:
        yield progress


class StageLines:
    """Prints a line when a stage starts and when it ends, and at most one per 30 s in between.

    Args:
        command: The command's name, which starts every line.
        stream: Where the lines go.
        clock: Returns seconds.
    """

    def __init__(
        self, command: str, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._command = command
        self._stream = stream
        self._clock = clock
        self._started: dict[str, float] = {}
        self._printed = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Print the state of a stage if a line is due."""
        now = self._clock()
        new = stage not in self._started
        started = self._started.setdefault(stage, now)
        finished = done >= total
        if not (new or finished or now - self._printed >= _SECONDS_BETWEEN_LINES):
            return
        self._printed = now
        if finished:
            del self._started[stage]  # the next call under this name is a stage of its own
        seconds = now - started
        print(_line(self._command, stage, done, total, seconds), file=self._stream, flush=True)


def _line(command: str, stage: str, done: int, total: int, seconds: float) -> str:
    """Return `compare: answering 400/1,200, 0:50 left`, or the time taken where the stage is at its end."""
    line = single_line(f"{command}: {stage}")
    if total != 1:
        line += f" {done:,}/{total:,}"
    if total == 1 and done == 1:
        line += " done"
    if done >= total:
        return f"{line} in {_clock_text(seconds)}" if seconds >= 1 else line
    if done > 0 and seconds >= 1:
        return f"{line}, {_clock_text(seconds * (total - done) / done)} left"
    return line


def _clock_text(seconds: float) -> str:
    """Return minutes and seconds as 1:05, with hours in front where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def _bar(command: str, console: Console) -> Iterator[Progress]:
    """Yield a callback that draws the running stage as a bar, and leaves a line of each that took a second."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TaskID,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars
    from rich.table import Column

    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TaskProgressColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
    ]
    if console.width >= _NARROW_TERMINAL:
        columns.insert(1, BarColumn(bar_width=max(10, console.width // 4)))
    # Output that is piped elsewhere must not be drawn into the bar's stream.
    bars_of = Bars(*columns, console=console, expand=True, redirect_stdout=sys.stdout.isatty())
    # While bars are drawn, rich takes both streams, and would follow the colours in a line that it finds there.
    with bars_of as bars, printable_streams():
        tasks: dict[str, tuple[TaskID, float]] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                name = single_line(f"{command}: {stage}")
                tasks[stage] = (bars.add_task(name, total=total), time.monotonic())
            task, started = tasks[stage]
            if done < total:
                bars.update(task, completed=done, total=total)
                return
            del tasks[stage]
            bars.remove_task(task)
            bars.refresh()
            seconds = time.monotonic() - started
            if seconds < _SECONDS_WORTH_A_LINE:
                return
            console.print(_line(command, stage, done, total, seconds), soft_wrap=True)

        yield update
