"""`moir-edge diagnose`: which modality a model leans on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moir_edge.cli.common_options import (
    AllowOther,
    Limit,
    MaxNewTokens,
    force_option,
    json_option,
    output_option,
)
from moir_edge.cli.data_options import Data
from moir_edge.cli.groups import with_groups
from moir_edge.cli.image_option import MaxImagePixels
from moir_edge.cli.progress import Quiet, show_progress
from moir_edge.cli.reports import show_report
from moir_edge.cli.threads_option import Threads, ThreadWaitOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("diagnose")(with_groups(diagnose))


def diagnose(
    *,
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Checkpoints (folders or hub ids, with or without a router) and bundles; the first is "
            "the reference of the others."
        ),
    ],
    data: Data,
    output: Annotated[Path, output_option()],
    degrade: Annotated[
        list[str] | None,
        typer.Option(
            help="Degradation as NAME (level 3), NAME@LEVEL (1 to 5) or NAME=VALUE; repeatable. Examples: blur@2, blur=3.4px, "
            "noise=0.1, jpeg=20, word-dropout=0.3, image-blank, text-blank, mask-region=0.2. By default all of these "
            "but mask-region, at level 3."
        ),
    ] = None,
    perceptual: Annotated[
        bool, typer.Option(help="Measure answers with permuted images and words too.")
    ] = True,
    attention_rows: Annotated[
        int, typer.Option(min=0, help="Number of rows whose attention is measured; 0 for none.")
    ] = 60,
    routing_rows: Annotated[
        int, typer.Option(min=0, help="Number of rows whose routing map is drawn; 0 for none.")
    ] = 3,
    limit: Limit = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 32,
    max_new_tokens: MaxNewTokens = 64,
    max_image_pixels: MaxImagePixels = None,
    threads: Threads = None,
    thread_wait: ThreadWaitOption = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of noise, dropout, permutations and intervals.")
    ] = 0,
    allow_other: AllowOther = False,
    force: Annotated[bool, force_option("Replace an earlier diagnosis at -o.")] = False,
    quiet: Quiet = False,
    as_json: Annotated[
        bool, json_option("Print the diagnosis as JSON, without routing maps.")
    ] = False,
) -> None:
    """Measure the modality dominance of models. Reports scores under degradation, Shapley shares, perceptual scores and attention."""
    from moir_edge.data.degradations import DEFAULTS
    from moir_edge.evaluation import DiagnoseSettings
    from moir_edge.evaluation import diagnose as run
    from moir_edge.evaluation.diagnosis.table import print_diagnosis

    settings = DiagnoseSettings(
        degradations=tuple(degrade or DEFAULTS),
        perceptual=perceptual,
        attention_rows=attention_rows,
        routing_rows=routing_rows,
        limit=limit,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        threads=threads,
        allow_other=allow_other,
        seed=seed,
    )
    with show_progress("diagnose", quiet=quiet) as progress:
        report = run(sources, data.source(), output, settings, force=force, progress=progress)
    show_report(report, print_diagnosis, output, as_json=as_json)
