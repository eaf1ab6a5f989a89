"""`moir-edge tune`: train the router of a checkpoint on the user's rows, with or without a balance method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moir_edge.cli.common_options import force_option, json_option, output_option
from moir_edge.cli.data_options import Data, DataFlags, data_group
from moir_edge.cli.groups import Flags, values_of, with_groups
from moir_edge.cli.image_option import MaxImagePixels
from moir_edge.cli.progress import Quiet, show_progress
from moir_edge.cli.terminal import print_json, say
from moir_edge.cli.threads_option import Threads
from moir_edge.precisions import FP32
from moir_edge.tuning.balancing.names import BALANCE_METHODS

if TYPE_CHECKING:
    from moir_edge.tuning import TuneReport, TuneSettings

__all__ = ["register"]


_EVALUATION_DATA = data_group(
    "eval",
    "eval_data",
    fields=("annotations", "images", "split"),
    help={
        "path": "Evaluation rows for the loss, in the same format as --data.",
        "annotations": "Annotations file of --eval-data, for the format vqa-v2.",
        "images": "Folder of the images of --eval-data; the folder of --images by default.",
        "split": "Split of --eval-data, for the format hub.",
    },
)


@dataclass(frozen=True, kw_only=True)
class TuneFlags(Flags):
    """Flags of a training, named as the fields of `TuneSettings`."""

    argument: str = "settings"
    train: Annotated[
        str,
        typer.Option(
            help="Weights to train: router (other weights stay frozen), lora (also adapters on the "
            "language model) or full."
        ),
    ] = "router"
    lora_rank: Annotated[
        int | None, typer.Option(min=1, help="Rank of the adapters of --train lora; 8 by default.")
    ] = None
    balance_method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Keep one modality from taking the training over: {', '.join(BALANCE_METHODS)}.",
        ),
    ] = None
    keep_clean: Annotated[
        float | None,
        typer.Option(
            metavar="WEIGHT",
            help="On rows that are not degraded, keep the answers close to those without router and adapters: "
            "weight of the KL divergence in the loss. For --train router and lora.",
        ),
    ] = None
    rank_density: Annotated[
        float | None,
        typer.Option(
            metavar="WEIGHT",
            help="Rank each image token's density above that of the same token once its part of the picture is masked "
            "or degraded: weight of the ranking loss. For a token router with density confidence.",
        ),
    ] = None
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps; replaces --epochs.")
    ] = None
    epochs: Annotated[float, typer.Option(help="Passes over the rows.")] = 1.0
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 8
    seed: Annotated[int, typer.Option(min=0, help="Seed that sets the order of the rows.")] = 0
    early_stop: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stop after this many evaluations without a lower loss; keep the best weights.",
        ),
    ] = None
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Steps between training checkpoints and between evaluations.")
    ] = 100
    dtype: Annotated[
        str,
        typer.Option(
            help="Type of the training computation: fp32, or bf16, which is faster on a processor with bfloat16."
        ),
    ] = FP32
    degrade: Annotated[
        list[str] | None,
        typer.Option(
            help="Degradation of training rows, named as in `diagnose`: blur=3px, word-dropout=0.3, "
            "text-blank, …; repeatable. A degradation given twice is used twice as often."
        ),
    ] = None
    degrade_share: Annotated[float, typer.Option(help="Share of rows that --degrade changes.")] = (
        0.5
    )
    missing_image: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of rows without any image.")
    ] = 0.0
    missing_context: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of rows without their context.")
    ] = 0.0

    def settings(self) -> TuneSettings:
        """Return the settings."""
        from moir_edge.tuning import TuneSettings

        return TuneSettings(**values_of(self) | {"degrade": tuple(self.degrade or ())})


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("tune")(with_groups(tune))


def tune(
    *,
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Checkpoint: folder or hub id; for --train router it must have a router."
        ),
    ],
    output: Annotated[Path, output_option("Folder of the new checkpoint.")],
    data: Data,
    eval_data: Annotated[DataFlags, _EVALUATION_DATA],
    training: TuneFlags,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Resume an interrupted run from its newest whole checkpoint."
        ),
    ] = False,
    force: Annotated[
        bool,
        force_option(
            "Replace an earlier checkpoint in the folder of -o, and discard its unfinished run."
        ),
    ] = False,
    quiet: Quiet = False,
    max_image_pixels: MaxImagePixels = None,
    threads: Threads = None,
    as_json: Annotated[bool, json_option("Print the report as JSON.")] = False,
) -> None:
    """Tune a checkpoint's router on rows with answers. With --train lora or full, tune other weights too."""
    from dataclasses import asdict

    from moir_edge.errors import MoirEdgeError
    from moir_edge.tuning import training_folder
    from moir_edge.tuning import tune as run

    source = data.source()
    try:
        with show_progress("tune", quiet=quiet) as progress:
            report = run(
                checkpoint,
                output,
                source,
                eval_data=eval_data.in_place_of(source),
                settings=training.settings(),
                resume=resume,
                force=force,
                progress=progress,
            )
    except KeyboardInterrupt as error:
        if not training_folder(output).exists():
            raise
        raise MoirEdgeError(
            f"interrupted; the same command with --resume goes on from {training_folder(output)}"
        ) from error
    if as_json:
        print_json(asdict(report))
        return
    for line in _summary(report, output):
        say(line)


def _summary(report: TuneReport, output: Path) -> list[str]:
    lines = [
        f"{output}: {report.trained_parameters:,} of {report.parameters:,} parameters tuned on {report.rows:,} rows, "
        f"{report.steps:,} steps in {report.seconds:.0f} s",
        f"loss: {report.first_loss:.4f} at the first log entry, {report.last_loss:.4f} at the last",
    ]
    if report.conditions.keys() != {"clean"}:
        mix = ", ".join(f"{count:,} {name}" for name, count in sorted(report.conditions.items()))
        lines.append(f"rows: {mix}")
    if report.eval_loss is not None:
        lines.append(
            f"loss on the evaluation rows: {report.first_eval_loss:.4f} before, {report.eval_loss:.4f} after"
        )
    if report.balance:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in report.balance.items())
        lines.append(f"{report.settings['balance_method']}, last step: {figures}")
    for name, course in report.objectives.items():
        lines.append(
            f"{name.replace('_', ' ')}, weight {course['weight']:g}: "
            f"{course['first']:.4f} at the first log entry, {course['last']:.4f} at the last"
        )
    return lines
