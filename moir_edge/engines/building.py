"""Compile a bundle's graphs to engines: TensorRT-RTX ahead of time and without a GPU, TensorRT on the device itself.

Each component is built strongly typed for exactly one compute capability, one after the other and in a process of its own, so
that at most one network is in memory. An engine that is there already, of the same graph, builder, GPU and shapes, is
kept as it is. Shapes come from `moir_edge.bundle.profiles`.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from moir_edge.arguments import check_run, file_path, instance, text
from moir_edge.bundle import Bundle, EngineEntry, Manifest, open_bundle, seal, staged_bundle
from moir_edge.engines.reuse import EngineStock
from moir_edge.engines.work import TIMING_CACHE, EngineOptions, EngineWork
from moir_edge.environment import require
from moir_edge.errors import BundleError, UnsupportedError
from moir_edge.ownership import foreign_files, matches, name_some, remove_files
from moir_edge.progress import Progress, silent
from moir_edge.targets import Target, check_precision, get_target
from moir_edge.tensorrt_api import device_compute_capability

__all__ = [
    "EngineOptions",
    "add_engines",
    "build_engines",
    "buildable_target",
]


def build_engines(
    bundle_folder: str | Path,
    manifest: Manifest,
    target: str,
    *,
    options: EngineOptions | None = None,
    stock: EngineStock | None = None,
    progress: Progress | None = None,
) -> list[EngineEntry]:
    """Build the engine of every component into ``engines/<target>/``; the manifest is left to the caller.

    Args:
        bundle_folder: Folder of the graphs; external data is read relative to it.
        manifest: Names each component's graph, inputs and precision.
        target: Whose engines. Those of a Jetson are built on a device of that kind only.
        options: What kind of engines.
        stock: Engines that may serve as they are, or after a refit.
        progress: Called as ``progress(stage, step, total)``, one stage per component.

    Returns:
        One entry per component, in the manifest's order.

    Raises:
        BundleError: ``engines/<target>/`` holds files that moir-edge did not write.
        UnsupportedError: The target's engines are not built here, the target lacks a component's precision, or
            the builder refuses a graph, with the node. No engine is left behind then.
        EnvironmentProblem: The builder is not installed, or the memory is too small.
    """
    profile = buildable_target(target)
    _refuse_foreign(Path(bundle_folder) / "engines" / profile.name)
    for name, component in manifest.components.items():
        check_precision(profile, component.precision, component=name)
    folder = Path(bundle_folder)
    output = folder / "engines" / profile.name
    partial = output.with_name(f".{profile.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        work = EngineWork(folder, manifest, profile, options or EngineOptions(), partial, stock)
        entries = work.run(progress or silent)
        _clear(output)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_if_empty(folder / "engines")
    return entries


def add_engines(
    bundle: str | Path,
    target: str | None = None,
    *,
    options: EngineOptions | None = None,
    refit: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Build the engines of a target into a bundle that exists, and list them in its manifest.

    The bundle is replaced as a whole by a copy, so an interrupted build leaves it as it was. Engines of that target that the
    bundle has are kept where nothing of theirs has changed, and replaced otherwise. Files that the manifest does not list
    stay where they are.

    Args:
        bundle: The bundle folder; every file is verified first.
        target: The bundle's own without one.
        options: What kind of engines; plain ones without, or those of `refit`.
        refit: Another bundle, whose engines of that target are taken over: as they are where the graph is the same, with the new
            weights where they can be exchanged. What is left is compiled.
        progress: Called as ``progress(stage, step, total)``, one stage per component.

    Returns:
        The bundle folder.

    Raises:
        BundleError: A folder is not a bundle, a file has changed, `refit` has no engines of the target, or another process
            has changed the bundle meanwhile.
        UnsupportedError: As in `build_engines`.
    """
    text("target", target)
    instance("options", options, EngineOptions)
    check_run(progress)
    refit = file_path("refit", refit)
    opened = open_bundle(bundle)
    for component in opened.manifest.components:
        opened.graph(component)
    target = target or opened.manifest.target
    buildable_target(target)
    stock = EngineStock(opened.path, opened.manifest)
    if refit is not None:
        stock, options = _refit_stock(open_bundle(refit), target, options)
    others = tuple(entry for entry in opened.manifest.engines if entry.target != target)
    with staged_bundle(opened.path, force=True, keep_others=True) as staging:
        _copy_files(opened, staging, skip=f"engines/{target}/")
        built = build_engines(
            staging, opened.manifest, target, options=options, stock=stock, progress=progress
        )
        seal(staging, opened.manifest.model_copy(update={"engines": (*others, *built)}))
        _refuse_changed(opened, target)
    return opened.path


def buildable_target(target: str) -> Target:
    """Return the profile of a target whose engines can be built on this machine.

    Raises:
        UnsupportedError: It has no engines, or its engines are built on another machine.
        EnvironmentProblem: The builder is not installed.
    """
    profile = get_target(target)
    if profile.builder == "onnxruntime":
        raise UnsupportedError(
            f"{profile.name} has no engines: ONNX Runtime runs the bundle's graphs as they are"
        )
    if profile.builder == "tensorrt":
        _require_device(profile)
    else:
        require("tensorrt_rtx")
    return profile


def _require_device(target: Target) -> None:
    if importlib.util.find_spec("tensorrt") is None:
        raise UnsupportedError(
            f"engines for {target.name} are built by TensorRT on the device itself; copy the bundle there and run "
            "`moir-edge build BUNDLE`"
        )
    found = device_compute_capability()
    if found != target.compute_capability:
        here = "no GPU" if found is None else f"a GPU of SM {found}"
        raise UnsupportedError(
            f"engines for {target.name} (SM {target.compute_capability}) are built by TensorRT on the device itself, and "
            f"this machine has {here}"
        )


def _refit_stock(
    source: Bundle, target: str, options: EngineOptions | None
) -> tuple[EngineStock, EngineOptions]:
    """Return the engines of another bundle, and their kind, which a refit keeps."""
    entries = [entry for entry in source.manifest.engines if entry.target == target]
    if not entries:
        raise BundleError(
            f"{source.path} has no engines for {target} to reuse; leave `refit` out to build them"
        )
    kind = EngineOptions(strip_weights=entries[0].stripped, refittable=entries[0].refittable)
    if options not in (None, EngineOptions(), kind):
        raise UnsupportedError(
            f"the engines of {source.path} were built with other settings; leave `strip_weights` and `refittable` out with `refit`"
        )
    return EngineStock(source.path, source.manifest), kind


def _copy_files(source: Bundle, destination: Path, *, skip: str) -> None:
    """Put every file that the manifest lists, but those under `skip`, into `destination`.

    Real copies: ONNX's loader takes weights with more than one hard link for an attack.
    """
    for entry in source.manifest.files:
        if not entry.path.startswith(skip):
            copy = destination / entry.path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source.file(entry.path), copy)


def _refuse_changed(opened: Bundle, target: str) -> None:
    """Refuse a bundle that differs from what was opened, engines of the target aside: the copy would undo the difference."""

    def rest(manifest: Manifest) -> Manifest:
        engines = tuple(one for one in manifest.engines if one.target != target)
        files = tuple(
            one for one in manifest.files if not one.path.startswith(f"engines/{target}/")
        )
        update = {"engines": engines, "files": files, "manifest_sha256": None}
        return manifest.model_copy(update=update)

    now = open_bundle(opened.path, verify=False).manifest
    if rest(now) != rest(opened.manifest):
        raise BundleError(
            f"{opened.path} exists in another version than its engines were built for: another process wrote it "
            "meanwhile; build again"
        )


def _is_engine_file(path: str) -> bool:
    return matches(path, ("*.engine", TIMING_CACHE))


def _refuse_foreign(folder: Path) -> None:
    """Raise `BundleError` if a target's folder of engines, which is written anew, holds anything else."""
    others = foreign_files(folder, _is_engine_file)
    if others:
        raise BundleError(
            f"{folder} holds files not written by moir-edge ({name_some(others)}); move them away"
        )


def _clear(folder: Path) -> None:
    _refuse_foreign(folder)
    remove_files(folder, _is_engine_file)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
