"""`moir-edge build`: compile the engines of a target into a bundle that exists."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moir_edge.cli.common_options import JsonManifest
from moir_edge.cli.completions import complete_target
from moir_edge.cli.export import print_summary
from moir_edge.cli.progress import Quiet, show_progress
from moir_edge.cli.terminal import say

if TYPE_CHECKING:
    from moir_edge.bundle import Manifest

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("build")(build)


def build(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    target: Annotated[
        str | None,
        typer.Option(
            help="Target to build engines for, such as rtx-40; the bundle's own target by default.",
            autocompletion=complete_target,
        ),
    ] = None,
    strip_weights: Annotated[
        bool,
        typer.Option(
            "--strip-weights",
            help="Build engines without weights; loading an engine takes the weights from its graph.",
        ),
    ] = False,
    refittable: Annotated[
        bool,
        typer.Option(
            "--refittable", help="Build engines whose weights can be replaced without a new build."
        ),
    ] = False,
    refit: Annotated[
        Path | None,
        typer.Option(
            metavar="OLD",
            help="Reuse the engines of this bundle; refit or compile only engines whose graphs changed.",
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: JsonManifest = False,
) -> None:
    """Compile the engines of a bundle. RTX engines compile on any machine, Jetson engines on the device itself."""
    from moir_edge.bundle import open_bundle
    from moir_edge.engines import EngineOptions, add_engines

    before = open_bundle(bundle, verify=False).manifest
    earlier = before if refit is None else open_bundle(refit, verify=False).manifest
    with show_progress("build", quiet=quiet) as progress:
        path = add_engines(
            bundle,
            target,
            options=EngineOptions(strip_weights=strip_weights, refittable=refittable),
            refit=refit,
            progress=progress,
        )
    print_summary(path, as_json=as_json)
    if not as_json:
        say(_kept(open_bundle(path, verify=False).manifest, earlier, target))


def _kept(after: Manifest, before: Manifest, target: str | None) -> str:
    """Return which engines are, byte by byte, the earlier bundle's, and which are new."""
    known = {entry.sha256 for entry in before.files}
    hashes = {entry.path: entry.sha256 for entry in after.files}
    chosen = [entry for entry in after.engines if entry.target == (target or after.target)]
    kept = [entry.component for entry in chosen if hashes[entry.path] in known]
    new = [entry.component for entry in chosen if entry.component not in kept]
    return f"engines kept: {', '.join(kept) or 'none'}; new: {', '.join(new) or 'none'}"
