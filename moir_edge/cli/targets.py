"""`moir-edge targets`: the device profiles, their precisions and their engine builders."""

from __future__ import annotations

from typing import Annotated

import typer

from moir_edge.cli.common_options import json_option
from moir_edge.cli.terminal import new_console, print_json, print_table, say

__all__ = ["register"]

_NOTES = (
    "On a processor fp16 and bf16 are what weights are stored in; products run in fp32.",
    "tensorrt builds on the device; tensorrt_rtx ahead of time on any machine; onnxruntime needs no engine.",
)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("targets")(targets)


def targets(
    as_json: Annotated[bool, json_option("Print the table as a JSON list.")] = False,
) -> None:
    """List the targets: SM, memory, precisions and engine builder."""
    from moir_edge.targets import TARGETS

    if as_json:
        print_json([target.to_dict() for target in TARGETS.values()])
        return
    _print_table()


def _print_table() -> None:
    from rich.table import Table

    from moir_edge.targets import TARGETS, available_precisions

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("target", no_wrap=True)
    table.add_column("SM", justify="right")
    table.add_column("memory", justify="right")
    table.add_column("precisions")
    table.add_column("engine builder", no_wrap=True)
    for target in TARGETS.values():
        table.add_row(
            target.name,
            "–" if target.sm is None else str(target.sm),
            "–" if target.memory_gb is None else f"{target.memory_gb} GB",
            " ".join(available_precisions(target)),
            target.builder,
        )
    print_table(table, new_console())
    for line in ("", *_NOTES):
        say(line)
