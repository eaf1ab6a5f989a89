"""`moir-edge compare`: a checkpoint against bundles, with a report and gates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moir_edge.cli.common_options import (
    AllowOther,
    JsonReport,
    Limit,
    MaxNewTokens,
    PruneBy,
    PruneShares,
    force_option,
    output_option,
)
from moir_edge.cli.completions import complete_provider
from moir_edge.cli.data_options import Data
from moir_edge.cli.gate_options import CompareGates
from moir_edge.cli.groups import with_groups
from moir_edge.cli.image_option import MaxImagePixels
from moir_edge.cli.progress import Quiet, show_progress
from moir_edge.cli.reports import show_report
from moir_edge.cli.threads_option import Threads, ThreadWaitOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(with_groups(compare))


def compare(
    *,
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Reference: a checkpoint (folder or hub id), or a bundle on a machine without torch."
        ),
    ],
    bundles: Annotated[list[Path], typer.Argument(help="Bundles to compare with the reference.")],
    data: Data,
    output: Annotated[Path, output_option()],
    provider: Annotated[
        list[str] | None,
        typer.Option(
            help="Provider of the bundles besides the reference, as in `run`; repeatable.",
            autocompletion=complete_provider,
        ),
    ] = None,
    prune_image_tokens: PruneShares = None,
    prune_by: PruneBy = "density",
    limit: Limit = None,
    latency_rows: Annotated[int, typer.Option(min=1, help="Number of rows to time.")] = 30,
    latency_repeats: Annotated[int, typer.Option(min=1, help="Repeats of each timed row.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch, for accuracy.")] = 32,
    max_new_tokens: MaxNewTokens = 64,
    max_image_pixels: MaxImagePixels = None,
    threads: Threads = None,
    thread_wait: ThreadWaitOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap intervals.")] = 0,
    gates: CompareGates,
    allow_other: AllowOther = False,
    force: Annotated[bool, force_option()] = False,
    quiet: Quiet = False,
    as_json: JsonReport = False,
) -> None:
    """Compare a checkpoint with bundles. Reports size, latency, memory, accuracy and router agreement. Exit 1 if a gate fails."""
    from moir_edge.evaluation import CompareSettings
    from moir_edge.evaluation import compare as run
    from moir_edge.evaluation.comparison.table import print_report

    settings = CompareSettings(
        limit=limit,
        latency_rows=latency_rows,
        latency_repeats=latency_repeats,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        threads=threads,
        seed=seed,
        allow_other=allow_other,
        providers=tuple(provider or ()),
        prune_image_tokens=tuple(prune_image_tokens or ()),
        prune_by=prune_by,
    )
    with show_progress("compare", quiet=quiet) as progress:
        report = run(
            checkpoint,
            bundles,
            data.source(),
            output,
            settings,
            bounds=gates.bounds(),
            force=force,
            progress=progress,
        )
    show_report(report, print_report, output, as_json=as_json)
    if not report.passed:
        raise typer.Exit(1)
