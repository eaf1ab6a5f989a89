"""Show the report of a command: tables for people, or JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from moir_edge.cli.terminal import print_json, say, table_console

if TYPE_CHECKING:
    from rich.console import Console

    from moir_edge.evaluation.writing import VersionedReport

__all__ = ["show_report"]

Report = TypeVar("Report", bound="VersionedReport")


def show_report(
    report: Report,
    print_tables: Callable[[Report, Console], None],
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print a report; beside JSON, gates that did not pass go to standard error.

    Args:
        report: The report.
        print_tables: Prints it for people.
        output: The folder that it was written to; None if it was not.
        as_json: Print JSON instead.
    """
    from moir_edge.evaluation.writing import page_name

    if as_json:
        print_json(report.summary())
        for gate in getattr(report, "gates", ()):
            if not gate.passed:
                say(gate.sentence(), err=True)
        return
    print_tables(report, table_console())
    if output is not None:
        say(f"report: {output / page_name(report)}")
