"""`moir-edge export`: a checkpoint becomes a bundle of ONNX graphs, quantized graphs and engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("export")(export)


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="Hugging Face VLM, with or without a router: folder or hub id.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Bundle folder to write.")],
    target: Annotated[
        str, typer.Option(help="Device profile; `moir-edge targets` lists them.")
    ] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8-weight-only or int4.")] = "fp32",
    component_precision: Annotated[
        list[str] | None,
        typer.Option(help="Precision of one component, as vision=fp32; repeatable."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a bundle that stands at the output.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the manifest's summary as JSON.")
    ] = False,
) -> None:
    """Export a checkpoint to a bundle; RTX targets get their TensorRT-RTX engines too."""
    from moir_edge.cli.terminal import progress_bar
    from moir_edge.environment import require
    from moir_edge.targets import check_precision, get_target

    overrides = parse_component_precision(component_precision or [])
    profile = get_target(target)
    check_precision(profile, precision)
    for component, name in overrides.items():
        check_precision(profile, name, component=component)
    require("torch", "transformers", "onnx", "onnxscript", "onnx_ir")
    if profile.builds_ahead_of_time:
        require("tensorrt_rtx")
    from moir_edge.export import export_bundle

    with progress_bar(quiet=as_json) as progress:
        path = export_bundle(
            checkpoint,
            output,
            target=target,
            precision=precision,
            component_precision=overrides,
            force=force,
            progress=progress,
        )
    print_summary(path, as_json=as_json)


def parse_component_precision(options: list[str]) -> dict[str, str]:
    """Return ``{"vision": "fp32"}`` from ``["vision=fp32"]``.

    Raises:
        UnsupportedError: An option without ``=``, or an unknown component.
    """
    from moir_edge.errors import UnsupportedError, closest

    components = ("vision", "embedding", "decoder")
    parsed = {}
    for option in options:
        component, separator, precision = option.partition("=")
        if not separator:
            raise UnsupportedError(
                f"--component-precision {option!r}: expected COMPONENT=PRECISION, as vision=fp32"
            )
        if component == "router":
            raise UnsupportedError(
                "the router stays in fp32; --component-precision router= is refused"
            )
        if component not in components:
            raise UnsupportedError(
                f"unknown component {component!r}: {closest(component, components)}"
            )
        parsed[component] = precision
    return parsed


def print_summary(path: Path, *, as_json: bool) -> None:
    """Print what a bundle holds, one line per component and engine, or as JSON.

    Args:
        path: The bundle folder.
        as_json: Print one JSON object instead.
    """
    from moir_edge.bundle import open_bundle

    manifest = open_bundle(path, verify=False).manifest
    if as_json:
        summary = manifest.model_dump(mode="json", include=set(_SUMMARY_FIELDS))
        typer.echo(json.dumps({"bundle": str(path), **summary}, indent=1))
        return
    total_mb = sum(entry.bytes for entry in manifest.files) / 1e6
    typer.echo(
        f"{path}: {manifest.source.architecture}, {total_mb:.1f} MB in {len(manifest.files)} files"
    )
    for name, component in manifest.components.items():
        typer.echo(f"  {name:<10}{component.precision:<18}{component.tensor_bytes / 1e6:8.2f} MB")
    for engine in manifest.engines:
        typer.echo(
            f"  engine {engine.component:<10}{engine.target} (SM {engine.compute_capability})"
        )


_SUMMARY_FIELDS = ("source", "target", "precision", "components", "engines", "parity", "router")
