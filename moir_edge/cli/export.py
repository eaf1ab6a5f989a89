"""`moir-edge export`: a checkpoint becomes a bundle of ONNX graphs, quantized graphs and engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moir_edge.cli.common_options import JsonManifest, force_option, output_option
from moir_edge.cli.export_options import ExportFlags
from moir_edge.cli.groups import with_groups
from moir_edge.cli.image_option import MaxImagePixels
from moir_edge.cli.mix_options import mix_lines
from moir_edge.cli.progress import Quiet, show_progress
from moir_edge.cli.quantization_lines import fallback_lines, quantization_report
from moir_edge.cli.terminal import print_json, say
from moir_edge.cli.threads_option import Threads
from moir_edge.precisions import FP32

if TYPE_CHECKING:
    from moir_edge.bundle import Bundle, Manifest

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("export")(with_groups(export))


def export(
    *,
    checkpoint: Annotated[
        str, typer.Argument(help="Hugging Face VLM, with or without a router: folder or hub id.")
    ],
    output: Annotated[Path, output_option("Bundle folder to write.")],
    bundle: ExportFlags,
    force: Annotated[bool, force_option("Replace an earlier bundle at -o.")] = False,
    quiet: Quiet = False,
    max_image_pixels: MaxImagePixels = None,
    threads: Threads = None,
    as_json: JsonManifest = False,
) -> None:
    """Export a checkpoint to a bundle. For RTX targets, compile the TensorRT-RTX engines too."""
    from moir_edge.bundle import check_bundle_output
    from moir_edge.environment import require
    from moir_edge.targets import check_precision, get_target

    check_bundle_output(output, force=force)
    overrides = bundle.precisions()
    profile = get_target(bundle.target)
    check_precision(profile, bundle.precision)
    for component, name in overrides.items():
        check_precision(profile, name, component=component)
    require("torch", "transformers", "onnx", "onnxscript", "onnx_ir")
    if bundle.engines and profile.builds_ahead_of_time:
        require("tensorrt_rtx")
    chosen = bundle.settings()
    from moir_edge.export import export_bundle

    with show_progress("export", quiet=quiet) as progress:
        path = export_bundle(checkpoint, output, chosen, force=force, progress=progress)
    print_summary(path, as_json=as_json)


def print_summary(path: Path, *, as_json: bool) -> None:
    """Print what a bundle holds, one line per component and engine, or as JSON.

    Args:
        path: The bundle folder.
        as_json: Print one JSON object instead.
    """
    from moir_edge.bundle import open_bundle
    from moir_edge.runtime.generation_config import not_carried, read_generation_config

    bundle = open_bundle(path, verify=False)
    manifest = bundle.manifest
    if as_json:
        summary = manifest.model_dump(mode="json", include=set(_SUMMARY_FIELDS))
        missing = list(not_carried(read_generation_config(bundle.files)).values())
        print_json({"bundle": str(path), **summary, "not_carried": missing})
        return
    total_mb = sum(entry.bytes for entry in manifest.files) / 1e6
    say(f"{path}: {manifest.source.architecture}, {total_mb:.1f} MB in {len(manifest.files)} files")
    for name, component in manifest.components.items():
        why = f"  {_ROUTER_REASON}" if name == "router" and manifest.precision != FP32 else ""
        size_mb = component.tensor_bytes / 1e6
        say(f"  {name:<10}{component.precision:<18}{size_mb:8.2f} MB{why}")
    if line := not_carried_line(bundle):
        say(f"  {line}")
    for note in manifest.notes:
        say(f"  note: {note}")
    for line in calibration_lines(manifest.calibration or {}):
        say(f"  {line}")
    report = quantization_report(bundle)
    mixed = mix_lines(report["sensitivity"]) if report["sensitivity"] else []
    for line in (*fallback_lines(report), *mixed):
        say(f"  {line}")
    for engine in manifest.engines:
        say(f"  engine {engine.component:<10}{engine.target} (SM {engine.compute_capability})")
    if line := device_build_line(path, manifest):
        say(f"  {line}")


def not_carried_line(bundle: Bundle) -> str:
    """Return which settings of a bundle's generation config its answers do not follow; empty if there are none.

    Args:
        bundle: An opened bundle.
    """
    from moir_edge.runtime.generation_config import not_carried, read_generation_config

    named = not_carried(read_generation_config(bundle.files))
    return f"generation_config.json: not carried: {'; '.join(named.values())}" if named else ""


def device_build_line(path: Path, manifest: Manifest) -> str:
    """Return what is left to do on the device, and whether its memory will do; empty if nothing is.

    Args:
        path: The bundle folder.
        manifest: Its manifest.
    """
    from moir_edge.engines.memory import estimate_build_memory
    from moir_edge.targets import get_target

    target = get_target(manifest.target)
    if target.builder != "tensorrt" or any(e.target == target.name for e in manifest.engines):
        return ""
    needed = max(
        estimate_build_memory(path, manifest, name, target) for name in manifest.components
    )
    line = f"engines: run `moir-edge build` on the device; it takes about {needed / 1e9:.1f} GB of memory there"
    if target.memory_gb is None or needed < target.memory_gb * 1e9:
        return line
    return (
        f"{line}, more than the {target.memory_gb} GB of {target.name}: "
        "add swap, or export in a narrower precision"
    )


def calibration_lines(record: Mapping[str, Any]) -> list[str]:
    """Return what to say of the calibration data: how many rows, and each that was skipped.

    Args:
        record: The manifest's `calibration`.
    """
    data = record.get("data")
    if data is None:
        return []
    skipped = [f"skipped {bad['where']}: {bad['reason']}" for bad in data["bad_rows"]]
    shares = ", ".join(f"{count} {name}" for name, count in data.get("conditions", {}).items())
    line = f"calibrated with {data['rows']} rows of {data['file']}"
    return [f"{line} ({shares})" if shares else line, *skipped]


_ROUTER_REASON = "stays in floating point: its look-up decides which tokens match"

_SUMMARY_FIELDS = (
    "source",
    "target",
    "precision",
    "components",
    "engines",
    "parity",
    "router",
    "calibration",
    "notes",
)
