"""`moir-edge inspect`: what a bundle holds, and whether every file of it is intact."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moir_edge.cli.common_options import json_option
from moir_edge.cli.quantization_lines import (
    figures_of,
    quantization_report,
    quantization_table,
    router_line,
)
from moir_edge.cli.terminal import new_console, print_json, print_table, say
from moir_edge.printable import single_line

if TYPE_CHECKING:
    from rich.console import Console

    from moir_edge.bundle import Bundle, Manifest, TensorSpec
    from moir_edge.engines.layers import Layer

__all__ = ["register", "summarise"]

_PLAIN_WIDTH = 130  # a file or pipe has no width of its own; this keeps one tensor per line


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("inspect")(inspect)


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    verify: Annotated[bool, typer.Option(help="Check each file's hash.")] = True,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers", help="List the layers and types that TensorRT parses; needs TensorRT."
        ),
    ] = False,
    quantization: Annotated[
        bool,
        typer.Option(
            "--quantization",
            help="List every layer with its precision, weight error, input scale, clipping, SQNR, "
            "sensitivity and reason.",
        ),
    ] = False,
    as_json: Annotated[bool, json_option("Print everything as JSON.")] = False,
) -> None:
    """Show a bundle's components, engines and parity figures. Verify its files too; with --layers, list the layers that TensorRT parses."""
    from moir_edge.bundle import open_bundle

    opened = open_bundle(bundle, verify=verify)
    summary = summarise(opened, verified=verify)
    found = _layers(opened) if layers else {}
    if quantization:
        summary["quantization"] = quantization_report(opened)
    if as_json:
        record = {name: [asdict(layer) for layer in listed] for name, listed in found.items()}
        summary |= {"layers": record} if layers else {}
        print_json(summary)
        return
    with figures_of(opened.path):
        _print(opened.manifest, summary)
    if layers:
        print_table(_layer_table(found), _console())
    if quantization:
        with figures_of(opened.path):
            _print_quantization(opened.manifest, summary["quantization"])


def summarise(bundle: Bundle, *, verified: bool) -> dict[str, Any]:
    """Return what `moir-edge inspect --json` prints.

    Args:
        bundle: An opened bundle.
        verified: Whether its files were proven by their hashes.
    """
    from moir_edge.runtime.generation_config import not_carried, read_generation_config

    manifest = bundle.manifest
    engine_paths = {engine.path for engine in manifest.engines}
    stored = sum(entry.bytes for entry in manifest.files if entry.path not in engine_paths)
    stored += (bundle.path / "manifest.json").stat().st_size
    tensors = sum(component.tensor_bytes for component in manifest.components.values())
    return {
        "bundle": str(bundle.path),
        "schema_version": manifest.schema_version,
        "source": manifest.source.model_dump(mode="json"),
        "model": manifest.model.model_dump(mode="json"),
        "target": manifest.target,
        "precision": manifest.precision,
        "router": manifest.router,
        "not_carried": list(not_carried(read_generation_config(bundle.files)).values()),
        "components": _components(manifest),
        "engines": [engine.model_dump(mode="json") for engine in manifest.engines],
        "parity": manifest.parity,
        "bytes": stored,
        "tensor_bytes": tensors,
        "bytes_ratio": round(stored / tensors, 4) if tensors else None,
        "engine_bytes": sum(entry.bytes for entry in manifest.files if entry.path in engine_paths),
        "files": len(manifest.files),
        "verified": verified,
        "created_with": manifest.created_with,
    }


def _components(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Return the components; a data file that two of them read counts for the first one."""
    sizes = {entry.path: entry.bytes for entry in manifest.files}
    counted: set[str] = set()
    table = {}
    for name, component in manifest.components.items():
        own = [path for path in (component.graph, *component.data) if path not in counted]
        counted.update(own)
        table[name] = {
            **component.model_dump(mode="json"),
            "bytes": sum(sizes.get(path, 0) for path in own),
            "shared": [path for path in component.data if path not in own],
        }
    return table


def _console() -> Console:
    console = new_console()
    if not console.is_terminal:
        console.width = max(console.width, _PLAIN_WIDTH)
    return console


def _layers(bundle: Bundle) -> dict[str, list[Layer]]:
    from moir_edge.engines.layers import bundle_layers

    return bundle_layers(bundle)


def _layer_table(found: dict[str, list[Layer]]) -> Any:
    """Return how many layers of each kind and type compute in a component; shapes and constants are counted as one row."""
    from rich.table import Table

    from moir_edge.engines.layers import count_layers

    table = Table("component", "layer", "reads", "gives", "count", title_justify="left")
    for name, layers in found.items():
        computing = [layer for layer in layers if layer.computes]
        for kind, inputs, output, number in count_layers(computing):
            table.add_row(*map(single_line, (name, kind, inputs, output, str(number))))
        table.add_row(name, "constants, shapes", "", "", str(len(layers) - len(computing)))
    return table


def _print(manifest: Manifest, summary: dict[str, Any]) -> None:
    console = _console()
    source = manifest.source
    console.print(single_line(summary["bundle"]), style="bold", soft_wrap=True)
    say(
        f"{source.architecture} from {source.name} (sha256 {source.sha256[:12]}…), "
        f"target {manifest.target}, precision {manifest.precision}"
    )
    print_table(_component_table(manifest, summary["components"]), console)
    if manifest.engines:
        print_table(_engine_table(manifest), console)
    for line in _closing_lines(manifest, summary):
        say(line)


def _print_quantization(manifest: Manifest, report: dict[str, Any]) -> None:
    console = _console()
    if not report["layers"]:
        say("quantization: none of its layers is quantized")
        return
    print_table(quantization_table(report), console)
    if line := router_line(manifest.parity):
        say(line)


def _component_table(manifest: Manifest, components: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("component", "precision", "size", "inputs", "outputs", title_justify="left")
    for name, component in manifest.components.items():
        shared = components[name]["shared"]
        note = f"\n+ {single_line(', '.join(shared))}" if shared else ""
        table.add_row(
            single_line(name),
            single_line(component.precision),
            _size(components[name]["bytes"]) + note,
            _tensors(component.inputs),
            _tensors(component.outputs),
        )
    return table


def _engine_table(manifest: Manifest) -> Any:
    from rich.table import Table

    sizes = {entry.path: entry.bytes for entry in manifest.files}
    table = Table("engine", "target", "SM", "compute", "builder", "size", "weights", "built in")
    for engine in manifest.engines:
        table.add_row(
            *map(
                single_line,
                (
                    engine.component,
                    engine.target,
                    engine.compute_capability,
                    engine.compute,
                    f"{engine.builder} {engine.builder_version}",
                ),
            ),
            _size(sizes.get(engine.path, 0)),
            ("stripped" if engine.stripped else "inside")
            + (", refittable" if engine.refittable else ""),
            f"{engine.build_seconds:.1f} s",
        )
    return table


def _closing_lines(manifest: Manifest, summary: dict[str, Any]) -> list[str]:
    ratio = summary["bytes_ratio"]
    lines = [
        f"size: {_size(summary['bytes'])} on disk for {_size(summary['tensor_bytes'])} of tensors"
        + (f" (ratio {ratio:.3f})" if ratio else "")
        + (f", engines {_size(summary['engine_bytes'])}" if manifest.engines else "")
    ]
    router = manifest.router
    lines.append(f"router: {_pairs(router)}" if router else "router: none")
    if missing := summary["not_carried"]:
        lines.append(f"generation_config.json: not carried: {'; '.join(missing)}")
    for name, figures in manifest.parity.items():
        shown = _pairs(figures) if isinstance(figures, dict) else _figure(figures)
        lines.append(f"parity {name}: {shown}")
    if summary["verified"]:
        lines.append(f"files: {summary['files']}, all hashes verified")
    else:
        lines.append(f"files: {summary['files']}, hashes not verified (--no-verify)")
    return lines


def _tensors(specs: tuple[TensorSpec, ...]) -> str:
    """Return one line per tensor; the key-value cache, which repeats per layer, as one."""
    lines = []
    caches = [spec for spec in specs if spec.is_cache]
    for spec in specs:
        if spec not in caches:
            lines.append(single_line(f"{spec.name} {_shape(spec)}"))
    if caches:
        stem = caches[0].name.split(".")[0]
        lines.append(single_line(stem) + f".0…{len(caches) // 2 - 1} {_shape(caches[0])}")
    return "\n".join(lines)


def _shape(spec: TensorSpec) -> str:
    return "(" + ", ".join(str(axis) for axis in spec.shape) + f") {spec.dtype}"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _pairs(data: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_figure(value)}" for key, value in data.items())


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
