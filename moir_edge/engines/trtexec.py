"""The engines of a bundle as a shell script: what `moir-edge build` does, by the command line tool of TensorRT."""

from __future__ import annotations

import shlex
from pathlib import Path

from moir_edge.bundle import Manifest
from moir_edge.bundle.profiles import component_profiles
from moir_edge.engines.jobs import ShapeTable, shape_tables, workspace_bytes
from moir_edge.targets import Target, get_target

__all__ = ["SCRIPT_FOLDER", "script_name", "write_build_script"]

SCRIPT_FOLDER = "engines"

# On a Jetson the tool is installed beside the samples, not on the path.
_TOOLS = {
    "tensorrt": ("trtexec", "/usr/src/tensorrt/bin/trtexec"),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx"),
}


def script_name(target: str) -> str:
    """Return the path of a target's script inside the bundle."""
    return f"{SCRIPT_FOLDER}/build-{target}.sh"


def write_build_script(folder: Path, manifest: Manifest) -> Path | None:
    """Write the script of the bundle's own target.

    The engines it makes are the same as `moir-edge build` makes, but nothing records what they were built from: `run`
    takes engines that the manifest lists.

    Args:
        folder: The bundle's folder.
        manifest: Names graphs, inputs and target.

    Returns:
        The script; None for a target without engines.
    """
    target = get_target(manifest.target)
    if target.builder == "onnxruntime":
        return None
    path = folder / script_name(target.name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(_lines(manifest, target)) + "\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def _lines(manifest: Manifest, target: Target) -> list[str]:
    tool, installed = _TOOLS[target.builder]
    output = f"engines/{target.name}"
    lines = [
        "#!/bin/sh",
        f"# Engines for {target.name} by {tool}, as `moir-edge build` makes them. TRTEXEC=PATH names the tool.",
        "set -eu",
        'cd "$(dirname "$0")/.."',
        f'TRTEXEC="${{TRTEXEC:-$(command -v {tool} || echo {installed})}}"',
        f"mkdir -p {output}",
    ]
    if target.builder == "tensorrt":
        # TensorRT 11 knows no other networks, and need not know the flag.
        lines.append(
            'case "$("$TRTEXEC" --help 2>&1)" in *--stronglyTyped*) TYPED=--stronglyTyped ;; *) TYPED= ;; esac'
        )
    for name in manifest.components:
        lines += ["", *_command(manifest, name, target, output)]
    return lines


def _command(manifest: Manifest, name: str, target: Target, output: str) -> list[str]:
    component = manifest.components[name]
    tables = shape_tables(component, component_profiles(name, manifest.model))
    flags = [
        f"--onnx={component.graph}",
        f"--saveEngine={output}/{name}.engine",
        f"--memPoolSize=workspace:{workspace_bytes(target) >> 20}M",
        "--skipInference",
    ]
    if target.builder == "tensorrt":
        flags.append(f"--timingCacheFile={output}/timing.cache")
    else:
        flags.append(f"--computeCapabilities={target.compute_capability}")
    for index, table in enumerate(tables):
        flags += [f"--profile={index}"] if len(tables) > 1 else []
        flags += _shapes(table)
    joined = [shlex.quote(flag) for flag in flags]
    typed = " $TYPED" if target.builder == "tensorrt" else ""
    return [f'"$TRTEXEC"{typed} \\', *(f"  {flag} \\" for flag in joined[:-1]), f"  {joined[-1]}"]


def _shapes(table: ShapeTable) -> list[str]:
    flags = []
    for index, kind in enumerate(("min", "opt", "max")):
        shapes = ",".join(
            f"{tensor}:{'x'.join(map(str, sizes[index]))}" for tensor, sizes in table.items()
        )
        flags.append(f"--{kind}Shapes={shapes}")
    return flags
