"""`moir-edge build`: compile the engines of one more target into a bundle that exists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moir_edge.cli.export import print_summary

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("build")(build)


def build(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    target: Annotated[
        str, typer.Option(help="rtx-30, rtx-40, rtx-50, …; see `moir-edge targets`.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the manifest's summary as JSON.")
    ] = False,
) -> None:
    """Compile TensorRT-RTX engines of all components of a bundle, ahead of time, with no GPU."""
    from moir_edge.cli.terminal import progress_bar
    from moir_edge.environment import require

    require("tensorrt_rtx", "onnx_ir")
    from moir_edge.export.engines import add_engines

    with progress_bar(quiet=as_json) as progress:
        path = add_engines(bundle, target, progress=progress)
    print_summary(path, as_json=as_json)
