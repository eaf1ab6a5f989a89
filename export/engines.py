"""Compile a bundle's graphs to TensorRT-RTX engines, ahead of time and without a GPU.

Quantized graphs hold what is not quantized in float32, since the CPU runs them too. Their engines are compiled from a copy
in half precision, and with signed activations: a GPU's tensor cores would otherwise stand idle. Each component is built strongly typed for exactly one compute capability, one after the other, so that at most one
network is in memory. Shapes come from `moir_edge.export.profiles`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from moir_edge.bundle import EngineEntry, Manifest, open_bundle, seal, staged_bundle
from moir_edge.bundle.manifest import MANIFEST_NAME
from moir_edge.environment import require
from moir_edge.errors import UnsupportedError
from moir_edge.export.profiles import component_profiles
from moir_edge.targets import Target, check_precision, get_target

__all__ = ["EngineProgress", "add_engines", "build_engines"]

EngineProgress = Callable[[str, int, int], None]
"""Called as ``progress(component, step, total)``; steps rise from 0 to total, which is the same throughout."""

_QUANTIZED = ("int8", "int8-weight-only", "int4", "fp8", "nvfp4")
# The type of matrix products, where it is not float32.
_COMPUTE: dict[str, Literal["fp16", "int8", "fp8"]] = {
    "fp16": "fp16",
    "int8": "int8",
    "int8-weight-only": "fp16",
    "int4": "fp16",
    "fp8": "fp8",
    "nvfp4": "fp16",
}
_HALF_FOLDER = "half"


def build_engines(
    bundle_folder: str | Path,
    manifest: Manifest,
    target: str,
    *,
    progress: EngineProgress | None = None,
) -> list[EngineEntry]:
    """Build the engine of every component into ``engines/<target>/``; the manifest is left to the caller.

    Args:
        bundle_folder: Folder of the graphs; external data is read relative to it.
        manifest: Names each component's graph, inputs and precision.
        target: An RTX target, whose engines any machine can build.
        progress: Called as the build advances.

    Returns:
        One entry per component, in the manifest's order.

    Raises:
        UnsupportedError: The target's engines are not built here, the target lacks a component's precision, or
            the builder refuses a graph, with the node. No engine is left behind then.
        EnvironmentProblem: `tensorrt_rtx` is not installed.
    """
    profile = _buildable(target)
    for name, component in manifest.components.items():
        check_precision(profile, component.precision, component=name)
    require("tensorrt_rtx")
    folder = Path(bundle_folder)
    output = folder / "engines" / profile.name
    partial = output.with_name(f".{profile.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        entries = [
            _build_component(folder, manifest, name, profile, partial, progress)
            for name in manifest.components
        ]
        shutil.rmtree(partial / _HALF_FOLDER, ignore_errors=True)
        shutil.rmtree(output, ignore_errors=True)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_if_empty(folder / "engines")
    return entries


def add_engines(bundle: str | Path, target: str, *, progress: EngineProgress | None = None) -> Path:
    """Build the engines of one more target into a bundle that exists, and list them in its manifest.

    The bundle is replaced as a whole by a copy, so an interrupted build leaves it as it was.

    Args:
        bundle: The bundle folder; every file is verified first.
        target: An RTX target. Engines of that target that are there already are replaced.
        progress: Called as the build advances.

    Returns:
        The bundle folder.

    Raises:
        BundleError: The folder is no bundle, or a file has changed.
        UnsupportedError: As in `build_engines`.
    """
    _buildable(target)
    opened = open_bundle(bundle)
    others = tuple(entry for entry in opened.manifest.engines if entry.target != target)
    with staged_bundle(opened.path, force=True) as staging:
        _copy_files(opened.path, staging, skip=f"engines/{target}/")
        built = build_engines(staging, opened.manifest, target, progress=progress)
        seal(staging, opened.manifest.model_copy(update={"engines": (*others, *built)}))
    return opened.path


def _buildable(target: str) -> Target:
    profile = get_target(target)
    if profile.builder == "tensorrt":
        raise UnsupportedError(
            f"engines for {profile.name} are built by TensorRT on the device itself; copy the bundle there"
        )
    if profile.builder == "onnxruntime":
        raise UnsupportedError(
            f"{profile.name} has no engines: ONNX Runtime runs the bundle's graphs as they are"
        )
    return profile


def _build_component(
    folder: Path,
    manifest: Manifest,
    name: str,
    target: Target,
    output: Path,
    progress: EngineProgress | None,
) -> EngineEntry:
    # Imported here: the module must import without the `rtx` extra.
    from moir_edge.export import tensorrt_rtx as rtx

    component = manifest.components[name]
    started = time.perf_counter()
    halved = component.precision in _QUANTIZED
    graph = folder / component.graph
    engine = rtx.build(
        _half_copy(graph, output) if halved else graph,
        target,
        inputs=component.inputs,
        profiles=component_profiles(name, manifest.model),
        progress=None if progress is None else lambda step, total: progress(name, step, total),
    )
    path = output / f"{name}.engine"
    path.write_bytes(engine)
    return EngineEntry(
        component=name,
        target=target.name,
        path=f"engines/{target.name}/{path.name}",
        builder="tensorrt_rtx",
        builder_version=rtx.version(),
        compute_capability=target.compute_capability or "",
        compute=_COMPUTE.get(component.precision, "fp32"),
        build_seconds=round(time.perf_counter() - started, 3),
    )


def _half_copy(graph: Path, output: Path) -> Path:
    """Write the graph in half precision beside the engine to be, and return its path."""
    import onnx_ir as ir

    from moir_edge.calibration.rewriting import require_symmetric, sign_activations
    from moir_edge.export.half import to_half
    from moir_edge.export.writing import write_graphs

    model = ir.load(graph)
    require_symmetric(model.graph)
    sign_activations(model.graph)
    to_half(model)
    folder = output / _HALF_FOLDER
    folder.mkdir(exist_ok=True)
    return folder / write_graphs({graph.stem: model}, folder)[graph.stem].graph


def _copy_files(source: Path, destination: Path, *, skip: str) -> None:
    """Put every file but the manifest and those under `skip` into `destination`.

    Real copies: ONNX's loader takes weights with more than one hard link for an attack.
    """
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source).as_posix()
        if path.is_file() and relative != MANIFEST_NAME and not relative.startswith(skip):
            copy = destination / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
