"""`moir-edge retrofit`: attach a router to a pretrained VLM and save the result as a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("retrofit")(retrofit)


def retrofit(
    checkpoint: str = typer.Argument(help="Hugging Face VLM: a folder or a hub id."),
    output: Path = typer.Option(..., "-o", "--output", help="Folder of the new checkpoint."),
    density: str = typer.Option("confidence", help="Token score: confidence or entropy."),
    ratio: float = typer.Option(0.5, help="Share of the tokens of a modality that is enriched."),
    top_k: int = typer.Option(4, help="Sources per weak token."),
    direction: str = typer.Option("both", help="both, text-to-image, image-to-text or auto."),
    merge: str = typer.Option("add", help="add, concat or interpolate."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
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
