"""`moir-edge bench`: latency of bundles, and parity of numbers and times with gates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moir_edge.cli.common_options import AllowOther
from moir_edge.cli.data_options import (
    Annotations,
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
    from moir_edge.evaluation import BenchReport

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(
    bundles: Annotated[
        list[Path], typer.Argument(help="Bundles of one model; times are held against the first.")
    ],
    provider: Annotated[
        list[str] | None,
        typer.Option(help="What runs each bundle, a provider of `run`; repeatable."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Rows to use in place of prompts made from a seed.")
    ] = None,
    data_format: DataFormat = "jsonl",
    annotations: Annotations = None,
    images: Images = None,
    data_prompt: DataPrompt = None,
    data_split: DataSplit = None,
    data_subset: DataSubset = None,
    data_column: DataColumns = None,
    data_task: DataTask = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first rows only.")] = None,
    timed_rows: Annotated[int, typer.Option(min=1, help="Rows of --data that are timed.")] = 10,
    prompt_words: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Length of a prompt that is made; repeatable; 8 and 48 by default."
        ),
    ] = None,
    prompt_images: Annotated[int, typer.Option(min=0, help="Images of such a prompt.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds over the timed prompts.")] = 10,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 16,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Seed of prompts and bootstrap intervals.")] = 0,
    parity: Annotated[
        bool, typer.Option("--parity", help="Compare numbers with a reference, and times.")
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint or bundle to compare numbers with; the fp32 bundle by default."
        ),
    ] = None,
    decode_steps: Annotated[
        int, typer.Option(min=0, help="Decoder steps compared after each prompt.")
    ] = 4,
    max_router_overhead: Annotated[
        float | None, typer.Option(help="Gate: most TTFT that the router adds, in %.")
    ] = None,
    max_slowdown: Annotated[
        float | None,
        typer.Option(help="Gate: most TTFT and TPOT over the baseline's, in %; negative for less."),
    ] = None,
    max_abs_error: Annotated[
        float | None, typer.Option(min=0, help="Gate: largest absolute error of any component.")
    ] = None,
    min_cosine: Annotated[
        float | None,
        typer.Option(min=-1, max=1, help="Gate: least mean cosine of every component."),
    ] = None,
    min_token_agreement: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Gate: least share of identical answers, in %."),
    ] = None,
    min_index_agreement: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Gate: least share of router sources found again, in %."),
    ] = None,
    allow_other: AllowOther = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the report.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a report at -o.")] = False,
    quiet: Quiet = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON, without raw samples.")
    ] = False,
) -> None:
    """Time bundles in turns; with --parity compare numbers and times too; exit 1 if a gate fails."""
    from moir_edge.evaluation import BenchBounds, BenchSettings
    from moir_edge.evaluation import bench as run

    if data is None:
        _refuse_flags_of_rows(
            {
                "--data-format": data_format != "jsonl",
                "--annotations": annotations,
                "--images": images,
                "--data-prompt": data_prompt,
                "--data-split": data_split,
                "--data-subset": data_subset,
                "--data-column": data_column,
                "--data-task": data_task,
                "--limit": limit,
            }
        )
        source = None
    else:
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
    settings = BenchSettings(
        bundles=tuple(bundles),
        providers=tuple(provider or ()),
        data=source,
        limit=limit,
        timed_rows=timed_rows,
        prompt_words=tuple(prompt_words or BenchSettings.prompt_words),
        images=prompt_images,
        repeats=repeats,
        max_new_tokens=max_new_tokens,
        decode_steps=decode_steps,
        threads=threads,
        seed=seed,
        parity=parity,
        reference=reference,
        allow_other=allow_other,
        bounds=BenchBounds(
            max_router_overhead=max_router_overhead,
            max_slowdown=max_slowdown,
            max_abs_error=max_abs_error,
            min_cosine=min_cosine,
            min_token_agreement=min_token_agreement,
            min_index_agreement=min_index_agreement,
        ),
    )
    with show_progress("bench", quiet=quiet) as progress:
        report = run(settings, output, force=force, progress=progress)
    _show(report, output, as_json=as_json)
    if not report.passed:
        raise typer.Exit(1)


def _refuse_flags_of_rows(given: Mapping[str, object]) -> None:
    """Raise `DataError` for a flag that says something of rows where there are none."""
    from moir_edge.errors import DataError

    for flag, value in given.items():
        if value:
            raise DataError(f"{flag} given without rows; add --data FILE")


def _show(report: BenchReport, output: Path | None, *, as_json: bool) -> None:
    """Print the report; beside JSON, failed gates go to standard error."""
    from moir_edge.cli.terminal import table_console
    from moir_edge.evaluation.parity.output import HTML_NAME, summary_json
    from moir_edge.evaluation.parity.tables import print_bench

    if as_json:
        typer.echo(summary_json(report))
        for gate in report.gates:
            if not gate.passed:
                typer.echo(gate.sentence(), err=True)
        return
    print_bench(report, table_console())
    if output is not None:
        typer.echo(f"report: {output / HTML_NAME}")
