"""`moir-edge bench`: latency of bundles, and parity of numbers and times with gates."""

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
from moir_edge.cli.data_options import OptionalData
from moir_edge.cli.gate_options import BenchGates
from moir_edge.cli.groups import with_groups
from moir_edge.cli.image_option import MaxImagePixels
from moir_edge.cli.progress import Quiet, show_progress
from moir_edge.cli.reports import show_report
from moir_edge.cli.threads_option import Threads, ThreadWaitOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(with_groups(bench))


def bench(
    *,
    bundles: Annotated[
        list[Path],
        typer.Argument(help="Bundles of one model; the first is the baseline of the times."),
    ],
    provider: Annotated[
        list[str] | None,
        typer.Option(help="Provider, as in `run`; repeatable.", autocompletion=complete_provider),
    ] = None,
    prune_image_tokens: PruneShares = None,
    prune_by: PruneBy = "density",
    data: OptionalData,
    limit: Limit = None,
    timed_rows: Annotated[int, typer.Option(min=1, help="Number of rows of --data to time.")] = 10,
    prompt_words: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Words of a generated prompt; repeatable; 8 and 48 by default."),
    ] = None,
    prompt_images: Annotated[int, typer.Option(min=0, help="Images of a generated prompt.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each timed prompt.")] = 10,
    max_new_tokens: MaxNewTokens = 16,
    max_image_pixels: MaxImagePixels = None,
    threads: Threads = None,
    thread_wait: ThreadWaitOption = None,
    seed: Annotated[int, typer.Option(help="Seed of prompts and bootstrap intervals.")] = 0,
    parity: Annotated[
        bool, typer.Option("--parity", help="Compare outputs with a reference too.")
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint or bundle to compare outputs with; the fp32 bundle by default."
        ),
    ] = None,
    decode_steps: Annotated[
        int, typer.Option(min=0, help="Decoder steps to compare after each prompt.")
    ] = 4,
    gates: BenchGates,
    allow_other: AllowOther = False,
    output: Annotated[Path | None, output_option()] = None,
    force: Annotated[bool, force_option()] = False,
    quiet: Quiet = False,
    as_json: JsonReport = False,
) -> None:
    """Measure the latency of bundles, run in turns. With --parity, compare their outputs too. Exit 1 if a gate fails."""
    from moir_edge.errors import DataError
    from moir_edge.evaluation import BenchSettings
    from moir_edge.evaluation import bench as run
    from moir_edge.evaluation.parity.tables import print_bench

    source = data.optional_source()
    if source is None and limit is not None:
        raise DataError("`limit` given without rows; add `data=FILE`")
    settings = BenchSettings(
        bundles=tuple(bundles),
        providers=tuple(provider or ()),
        prune_image_tokens=tuple(prune_image_tokens or ()),
        prune_by=prune_by,
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
        bounds=gates.bounds(),
    )
    with show_progress("bench", quiet=quiet) as progress:
        report = run(settings, output, force=force, progress=progress)
    show_report(report, print_bench, output, as_json=as_json)
    if not report.passed:
        raise typer.Exit(1)
