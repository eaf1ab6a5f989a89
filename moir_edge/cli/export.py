"""`moir-edge export`: a checkpoint becomes a bundle of ONNX graphs, quantized graphs and engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moir_edge.cli.calibration_options import (
    Balance,
    CalibColumns,
    CalibData,
    CalibFormat,
    CalibImages,
    CalibPrompt,
    CalibSplit,
    CalibSubset,
    CalibTask,
    EvalData,
    EvalFormat,
    EvalImages,
    EvalSplit,
    calibration_settings,
    calibration_source,
    evaluation_source,
    parse_smoothquant,
)
from moir_edge.cli.mix_options import (
    HoldoutRows,
    Sensitivity,
    SensitivityRows,
    TargetRecovery,
    mix_lines,
    mix_settings,
)
from moir_edge.cli.progress import Quiet, show_progress
from moir_edge.cli.quantization_lines import fallback_lines, quantization_report
from moir_edge.cli.threads_option import Threads
from moir_edge.precisions import FP32

if TYPE_CHECKING:
    from moir_edge.bundle import Manifest

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
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, int8-weight-only, int8, fp8, int4 or nvfp4.")
    ] = FP32,
    component_precision: Annotated[
        list[str] | None,
        typer.Option(help="Precision of one component, as vision=fp32; repeatable."),
    ] = None,
    int4_method: Annotated[
        str | None,
        typer.Option(
            help="INT4 weights by rtn, hqq, awq or gptq; the latter two need --calib-data. gptq with data, rtn without."
        ),
    ] = None,
    calib_data: CalibData = None,
    calib_format: CalibFormat = None,
    calib_images: CalibImages = None,
    calib_prompt: CalibPrompt = None,
    calib_split: CalibSplit = None,
    calib_subset: CalibSubset = None,
    calib_column: CalibColumns = None,
    calib_task: CalibTask = None,
    balance: Balance = None,
    calib_rows: Annotated[
        int | None, typer.Option(min=1, help="Calibrate with the first rows only; 256 by default.")
    ] = None,
    calib_method: Annotated[
        str | None,
        typer.Option(help="Ranges by minmax, percentile, entropy or mse; mse by default."),
    ] = None,
    calib_cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps statistics: an interrupted calibration goes on."),
    ] = None,
    eval_data: EvalData = None,
    eval_format: EvalFormat = None,
    eval_images: EvalImages = None,
    eval_split: EvalSplit = None,
    smoothquant: Annotated[
        str | None,
        typer.Option(help="SmoothQuant exponent from 0 to 1, search, or off; 0.5 by default."),
    ] = None,
    min_snr: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Inputs that int8 (fp8: less 5) would leave under this, in dB, stay float; 30 by default.",
        ),
    ] = None,
    max_bad_rows: Annotated[
        int | None, typer.Option(min=0, help="Skip this many bad rows at most; 10 by default.")
    ] = None,
    target_recovery: TargetRecovery = None,
    sensitivity: Sensitivity = False,
    sensitivity_rows: SensitivityRows = None,
    holdout_rows: HoldoutRows = None,
    engines: Annotated[
        bool, typer.Option(help="Compile the target's engines too; `build` does it later.")
    ] = True,
    parity_rtol: Annotated[
        float | None,
        typer.Option(
            help="fp32: largest error against torch, as a share of each output's largest value; 1e-4 by default."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a bundle that stands at the output.")
    ] = False,
    quiet: Quiet = False,
    threads: Threads = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the manifest's summary as JSON.")
    ] = False,
) -> None:
    """Export a checkpoint to a bundle; RTX targets get their TensorRT-RTX engines too."""
    from moir_edge.bundle import check_bundle_output
    from moir_edge.environment import require
    from moir_edge.targets import check_precision, get_target

    check_bundle_output(output, force=force)
    overrides = parse_component_precision(component_precision or [])
    profile = get_target(target)
    check_precision(profile, precision)
    for component, name in overrides.items():
        check_precision(profile, name, component=component)
    require("torch", "transformers", "onnx", "onnxscript", "onnx_ir")
    if engines and profile.builds_ahead_of_time:
        require("tensorrt_rtx")
    data = calibration_source(
        calib_data,
        calib_format,
        images=calib_images,
        prompt=calib_prompt,
        split=calib_split,
        subset=calib_subset,
        columns=calib_column,
        task=calib_task,
    )
    calibration = calibration_settings(
        data,
        rows=calib_rows,
        method=calib_method,
        cache=calib_cache,
        evaluation=evaluation_source(
            data, eval_data, eval_format, images=eval_images, split=eval_split
        ),
        balance=balance,
        smoothing=None if smoothquant is None else parse_smoothquant(smoothquant),
        min_snr_db=min_snr,
        max_bad_rows=max_bad_rows,
    )
    mix = mix_settings(
        target_recovery,
        sensitivity=sensitivity,
        sensitivity_rows=sensitivity_rows,
        holdout_rows=holdout_rows,
    )
    from moir_edge.export import export_bundle
    from moir_edge.export.parity import PARITY_RTOL

    with show_progress("export", quiet=quiet) as progress:
        path = export_bundle(
            checkpoint,
            output,
            target=target,
            precision=precision,
            component_precision=overrides,
            calibration=calibration,
            int4_method=int4_method,
            engines=engines,
            mix=mix,
            parity_rtol=PARITY_RTOL if parity_rtol is None else parity_rtol,
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

    components = ("vision", "embedding", "router", "decoder")
    parsed = {}
    for option in options:
        component, separator, precision = option.partition("=")
        if not separator:
            raise UnsupportedError(
                f"--component-precision {option!r}: expected COMPONENT=PRECISION, as vision=fp32"
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
    from moir_edge.finite import json_text
    from moir_edge.runtime.generation_config import not_carried, read_generation_config

    manifest = open_bundle(path, verify=False).manifest
    if as_json:
        summary = manifest.model_dump(mode="json", include=set(_SUMMARY_FIELDS))
        missing = list(not_carried(read_generation_config(path)).values())
        typer.echo(json_text({"bundle": str(path), **summary, "not_carried": missing}, indent=1))
        return
    total_mb = sum(entry.bytes for entry in manifest.files) / 1e6
    typer.echo(
        f"{path}: {manifest.source.architecture}, {total_mb:.1f} MB in {len(manifest.files)} files"
    )
    for name, component in manifest.components.items():
        why = f"  {_ROUTER_REASON}" if name == "router" and manifest.precision != FP32 else ""
        size_mb = component.tensor_bytes / 1e6
        typer.echo(f"  {name:<10}{component.precision:<18}{size_mb:8.2f} MB{why}")
    if line := not_carried_line(path):
        typer.echo(f"  {line}")
    for note in manifest.notes:
        typer.echo(f"  note: {note}")
    for line in calibration_lines(manifest.calibration or {}):
        typer.echo(f"  {line}")
    report = quantization_report(path)
    mixed = mix_lines(report["sensitivity"]) if report["sensitivity"] else []
    for line in (*fallback_lines(report), *mixed):
        typer.echo(f"  {line}")
    for engine in manifest.engines:
        typer.echo(
            f"  engine {engine.component:<10}{engine.target} (SM {engine.compute_capability})"
        )
    if line := device_build_line(path, manifest):
        typer.echo(f"  {line}")


def not_carried_line(path: Path) -> str:
    """Return which settings of a bundle's generation config its answers do not follow; empty if there are none.

    Args:
        path: The bundle folder.
    """
    from moir_edge.runtime.generation_config import not_carried, read_generation_config

    named = not_carried(read_generation_config(path))
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
