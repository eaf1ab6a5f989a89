"""`moir-edge retrofit`: attach a router to a pretrained VLM and save the result as a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("retrofit")(retrofit)


def retrofit(
    checkpoint: Annotated[str, typer.Argument(help="Hugging Face VLM: a folder or a hub id.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the new checkpoint.")],
    density: Annotated[
        str, typer.Option(help="Token score: confidence or entropy.")
    ] = "confidence",
    ratio: Annotated[
        float, typer.Option(help="Share of the tokens of a modality that is enriched.")
    ] = 0.5,
    top_k: Annotated[int, typer.Option(help="Sources per weak token.")] = 4,
    direction: Annotated[
        str, typer.Option(help="both, text-to-image, image-to-text or auto.")
    ] = "both",
    merge: Annotated[str, typer.Option(help="add, concat or interpolate.")] = "add",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Attach a token router to a VLM; the logits stay as they were until it is tuned."""
    from moir_edge.environment import require

    require("torch", "transformers")
    from moir_edge.router.checkpoint import retrofit_checkpoint

    options = {
        "density": density,
        "ratio": ratio,
        "top_k": top_k,
        "direction": direction,
        "merge": merge,
    }
    summary = retrofit_checkpoint(checkpoint, output, options)
    if as_json:
        typer.echo(json.dumps(summary, indent=1))
        return
    typer.echo(
        f"{summary['output']}: {summary['model_type']} with a router of "
        f"{summary['router_parameters']:,} parameters ({summary['parameters']:,} in all)"
    )
