"""`moir-edge retrofit`: attach a router to a pretrained VLM and save the result as a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moir_edge.cli.common_options import force_option, json_option, output_option
from moir_edge.cli.progress import Quiet, show_progress
from moir_edge.cli.terminal import print_json, say
from moir_edge.cli.threads_option import Threads

if TYPE_CHECKING:
    from moir_edge.progress import Progress
    from moir_edge.router import RouterConfig

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("retrofit")(retrofit)


def retrofit(
    checkpoint: Annotated[str, typer.Argument(help="Hugging Face VLM: folder or hub id.")],
    output: Annotated[Path, output_option("Folder of the new checkpoint.")],
    kind: Annotated[str, typer.Option(help="Kind of router: token, channel or gate.")] = "token",
    density: Annotated[
        str | None,
        typer.Option(
            help="Score of a token's information density: confidence (default) or entropy. Kind: token."
        ),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="For token: share of a modality's tokens to enrich, 0.5 by default. For channel: "
            "share of its channels to exchange, 0.1 by default."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Information density below which a token counts as weak. Kind: token."),
    ] = None,
    learned_gate: Annotated[
        bool,
        typer.Option(
            "--learned-gate",
            help="Learn below which density tokens are enriched and how strongly, instead of --ratio and "
            "--threshold. Kind: token.",
        ),
    ] = False,
    top_k: Annotated[
        int | None, typer.Option(help="Sources per weak token, 4 by default. Kind: token.")
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="Width of the lookup and the update, 32 by default. Kind: token."),
    ] = None,
    direction: Annotated[
        str | None,
        typer.Option(
            help="Direction of enrichment: both (default), text-to-image, image-to-text or, for token, auto."
        ),
    ] = None,
    merge: Annotated[
        str | None,
        typer.Option(
            help="Merge of a token with its update: add (default), concat or interpolate. Kind: token."
        ),
    ] = None,
    force: Annotated[bool, force_option("Replace an earlier checkpoint at -o.")] = False,
    quiet: Quiet = False,
    threads: Threads = None,
    as_json: Annotated[bool, json_option("Print the result as JSON.")] = False,
) -> None:
    """Attach a router to a VLM. Until tuned, token and gate routers leave the logits unchanged; channel changes them at once."""
    from moir_edge.environment import require

    require("torch", "transformers")
    from moir_edge.ownership import CHECKPOINT
    from moir_edge.router import RouterConfig
    from moir_edge.staging import check_replaceable, staged_folder

    check_replaceable(output, CHECKPOINT, force=force)
    given = {
        "kind": kind,
        "density": density,
        "ratio": ratio,
        "threshold": threshold,
        "learned_gate": learned_gate or None,
        "top_k": top_k,
        "rank": rank,
        "direction": direction,
        "merge": merge,
    }
    config = RouterConfig.from_record(
        {name: value for name, value in given.items() if value is not None},
        remedy="see `moir-edge retrofit --help`",
    )
    with (
        show_progress("retrofit", quiet=quiet) as progress,
        staged_folder(output, CHECKPOINT, force=force) as folder,
    ):
        summary = {"output": str(output), **_retrofit(checkpoint, config, folder, progress)}
    if as_json:
        print_json(summary)
        return
    say(
        f"{summary['output']}: {summary['architecture']} with a {kind} router of "
        f"{summary['router_parameters']:,} parameters ({summary['parameters']:,} in all)"
    )
    for note in summary["notes"]:
        say(f"  note: {note}")


def _retrofit(
    checkpoint: str, config: RouterConfig, folder: Path, progress: Progress
) -> dict[str, Any]:
    from moir_edge.checkpoint import load_checkpoint, processor_note, write_checkpoint
    from moir_edge.progress import single_step
    from moir_edge.router import retrofit as attach

    with single_step(progress, "loading"):
        loaded = load_checkpoint(checkpoint, exported=False)
    router = attach(loaded.model, config, tokenizer=loaded.tokenizer)
    with single_step(progress, "saving"):
        write_checkpoint(loaded.model, loaded.folder, folder)
    return {
        "architecture": loaded.source.architecture,
        "parameters": sum(weight.numel() for weight in loaded.model.parameters()),
        "router_parameters": sum(weight.numel() for weight in router.parameters()),
        "router": config.to_record(),
        "notes": [note] if (note := processor_note(loaded.folder)) else [],
    }
