"""`moir-edge retrofit`: attach a router to a pretrained VLM and save the result as a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from moir_edge.router import RouterConfig

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
    force: Annotated[
        bool, typer.Option("--force", help="Replace a checkpoint that stands at the output.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Attach a token router to a VLM; the logits stay as they were until it is tuned."""
    from moir_edge.environment import require

    require("torch", "transformers")
    from moir_edge.errors import DataError
    from moir_edge.router import RouterConfig
    from moir_edge.staging import FolderKind, staged_folder

    kind = FolderKind(name="checkpoint", marker="config.json", error=DataError)
    config = RouterConfig.from_record(
        {
            "density": density,
            "ratio": ratio,
            "top_k": top_k,
            "direction": direction,
            "merge": merge,
        }
    )
    with staged_folder(output, kind, force=force) as folder:
        summary = {"output": str(output), **_retrofit(checkpoint, config, folder)}
    if as_json:
        typer.echo(json.dumps(summary, indent=1))
        return
    typer.echo(
        f"{summary['output']}: {summary['architecture']} with a router of "
        f"{summary['router_parameters']:,} parameters ({summary['parameters']:,} in all)"
    )


def _retrofit(checkpoint: str, config: RouterConfig, folder: Path) -> dict[str, Any]:
    from transformers import AutoProcessor

    from moir_edge.export import load_checkpoint
    from moir_edge.router import retrofit as attach
    from moir_edge.router import special_token_ids

    loaded = load_checkpoint(checkpoint)
    router = attach(loaded.model, config, special_token_ids=special_token_ids(loaded.tokenizer))
    loaded.model.save_pretrained(folder)
    processor: Any = AutoProcessor
    processor.from_pretrained(loaded.folder).save_pretrained(folder)
    return {
        "architecture": loaded.source.architecture,
        "parameters": sum(weight.numel() for weight in loaded.model.parameters()),
        "router_parameters": sum(weight.numel() for weight in router.parameters()),
        "router": config.to_record(),
    }
