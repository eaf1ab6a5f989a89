"""`moir-edge compare`: a checkpoint against bundles, with a report and gates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moir_edge.cli.common_options import AllowOther
from moir_edge.cli.data_options import (
    Annotations,
    Data,
    DataColumns,
    DataFormat,
    DataPrompt,
    DataSplit,
    DataSubset,
    DataTask,
    Images,
    data_source,
)
from moir_edge.cli.progress import Quiet, show_progress
from moir_edge.cli.threads_option import Threads

if TYPE_CHECKING:
    from moir_edge.evaluation import ComparisonReport

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)


def compare(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="The reference: a checkpoint folder or hub id, or a bundle where there is no torch."
        ),
    ],
    bundles: Annotated[list[Path], typer.Argument(help="Bundles to compare with it.")],
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the report.")],
    data_format: DataFormat = "jsonl",
    annotations: Annotations = None,
    images: Images = None,
    data_prompt: DataPrompt = None,
    data_split: DataSplit = None,
    data_subset: DataSubset = None,
    data_column: DataColumns = None,
    data_task: DataTask = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first rows only.")] = None,
    latency_rows: Annotated[int, typer.Option(min=1, help="Rows that are timed.")] = 30,
    latency_repeats: Annotated[int, typer.Option(min=1, help="Rounds over those rows.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch for accuracy.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap intervals.")] = 0,
    min_recovery: Annotated[
        float | None, typer.Option(min=0, help="Gate: least mean recovery over tasks, in %.")
    ] = None,
    min_task_recovery: Annotated[
        float | None, typer.Option(min=0, help="Gate: least recovery of every task, in %.")
    ] = None,
    max_router_overhead: Annotated[
        float | None, typer.Option(help="Gate: most TTFT that the router adds, in %.")
    ] = None,
    max_ttft_ratio: Annotated[
        float | None, typer.Option(min=0, help="Gate: largest TTFT over the reference's.")
    ] = None,
    min_token_agreement: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Gate: least share of identical answers, in %."),
    ] = None,
    gate_on: Annotated[
        Literal["mean", "low"],
        typer.Option(
            help="What --min-recovery and --min-task-recovery bind: the mean, or the low end of its 95 % interval."
        ),
    ] = "mean",
    allow_other: AllowOther = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a report at -o.")] = False,
    quiet: Quiet = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON, without raw samples.")
    ] = False,
) -> None:
    """Compare a checkpoint with bundles: size, latency, memory, accuracy, router; exit 1 if a gate fails."""
    from moir_edge.evaluation import GateBounds
    from moir_edge.evaluation import compare as run

    bounds = GateBounds(
        min_recovery=min_recovery,
        min_task_recovery=min_task_recovery,
        max_router_overhead=max_router_overhead,
        max_ttft_ratio=max_ttft_ratio,
        min_token_agreement=min_token_agreement,
        gate_on=gate_on,
    )
    source = data_source(
        data,
        data_format,
        annotations=annotations,
        images=images,
        prompt=data_prompt,
        split=data_split,
        subset=data_subset,
        columns=data_column,
        task=data_task,
    )
    with show_progress("compare", quiet=quiet) as progress:
        report = run(
            checkpoint,
            bundles,
            source,
            output,
            limit=limit,
            latency_rows=latency_rows,
            latency_repeats=latency_repeats,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            threads=threads,
            seed=seed,
            bounds=bounds,
            allow_other=allow_other,
            force=force,
            progress=progress,
        )
    _show(report, output, as_json=as_json)
    if not report.passed:
        raise typer.Exit(1)


def _show(report: ComparisonReport, output: Path, *, as_json: bool) -> None:
    """Print the report; beside JSON, failed gates go to standard error."""
    from moir_edge.cli.terminal import table_console
    from moir_edge.evaluation.comparison.output import HTML_NAME, summary_json
    from moir_edge.evaluation.comparison.table import print_report

    if as_json:
        typer.echo(summary_json(report))
        for gate in report.gates:
            if not gate.passed:
                typer.echo(gate.sentence(), err=True)
    else:
        print_report(report, table_console())
        typer.echo(f"report: {output / HTML_NAME}")
