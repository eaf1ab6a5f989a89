"""Check that an engine belongs to its graph and to this machine before it is loaded.

An engine holds machine code for one GPU architecture, written by one version of one builder from one graph. Each of the four is
recorded when it is built; whoever loads it asks `check_engine` first, which needs the manifest alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from moir_edge.arguments import text
from moir_edge.bundle.manifest import ComponentEntry, EngineEntry, Manifest
from moir_edge.checked import a, checked, required
from moir_edge.errors import BundleError, closest
from moir_edge.targets import TARGETS

__all__ = ["check_engine", "component_sha256", "find_engine", "rebuild_command"]


@checked(manifest=a(Manifest), name=required(text))
def component_sha256(manifest: Manifest, name: str) -> str:
    """Return one hash over a component's operators and weights, wherever in the bundle these lie.

    Args:
        manifest: A sealed manifest.
        name: The component.

    Returns:
        64 hexadecimal digits. Where the manifest has no hash of the content, that of the component's files.
    """
    component = manifest.components.get(name)
    if component is None:
        raise BundleError(f"there is no component {name!r}: {closest(name, manifest.components)}")
    if component.structure_sha256 and component.weights_sha256:
        parts = [component.structure_sha256, component.weights_sha256]
    else:
        parts = _file_hashes(manifest, component)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _file_hashes(manifest: Manifest, component: ComponentEntry) -> list[str]:
    hashes = {entry.path: entry.sha256 for entry in manifest.files}
    return [hashes.get(path, "") for path in (component.graph, *component.data)]


@checked(manifest=a(Manifest))
def find_engine(
    manifest: Manifest, component: str, *, builder: str, compute_capability: str
) -> EngineEntry | None:
    """Return the engine of a component for a builder and a GPU; None if the bundle has none.

    Args:
        manifest: Its engines are searched; the bundle's own target goes first.
        component: ``vision``, ``embedding``, ``router`` or ``decoder``.
        builder: ``tensorrt`` or ``tensorrt_rtx``.
        compute_capability: As in ``"8.9"``.
    """
    fitting = [
        entry
        for entry in manifest.engines
        if entry.component == component
        and entry.builder == builder
        and entry.compute_capability == compute_capability
    ]
    fitting.sort(key=lambda entry: entry.target != manifest.target)
    return fitting[0] if fitting else None


@checked(entry=a(EngineEntry), manifest=a(Manifest))
def check_engine(
    entry: EngineEntry,
    manifest: Manifest,
    *,
    builder: str,
    version: str,
    compute_capability: str | None,
    bundle: str | Path = "BUNDLE",
) -> None:
    """Refuse an engine that this machine cannot run, or that no longer belongs to its graph.

    Args:
        entry: The engine's entry in the manifest.
        manifest: Names the graph as it is now.
        builder: The module that is going to load it, ``tensorrt`` or ``tensorrt_rtx``.
        version: That module's `__version__`.
        compute_capability: The GPU's, as in ``"8.9"``; None where it is not known.
        bundle: The bundle's folder, for the command in the message.

    Raises:
        BundleError: What the engine was built for, what is here, and the command that builds it anew.
    """
    reason = _misfit(entry, manifest, builder, version, compute_capability)
    if reason:
        command = rebuild_command(entry, builder, compute_capability, bundle)
        raise BundleError(f"{entry.path} {reason}; {command}")


def _misfit(
    entry: EngineEntry, manifest: Manifest, builder: str, version: str, capability: str | None
) -> str:
    """Return why an engine does not fit; empty if it does."""
    if entry.builder != builder:
        return f"was built by {entry.builder}, which {builder} cannot load"
    if entry.builder_version != version:
        return f"was built by {builder} {entry.builder_version}, and this is {version}"
    if capability is not None and entry.compute_capability != capability:
        return f"was built for SM {entry.compute_capability}, and this GPU is SM {capability}"
    if entry.component not in manifest.components:
        return f"belongs to the component {entry.component!r}, which the bundle does not have"
    if entry.graph_sha256 != component_sha256(manifest, entry.component):
        return f"is stale: {manifest.components[entry.component].graph} has changed since"
    return ""


def rebuild_command(
    entry: EngineEntry, builder: str, compute_capability: str | None, bundle: str | Path
) -> str:
    """Return the advice that ends a refusal: the command that builds the engine for this machine."""
    target = _target_here(entry, builder, compute_capability)
    if target is None:
        return f"no target of moir-edge has {builder} engines for SM {compute_capability}; see `moir-edge targets`"
    where = " on this device" if builder == "tensorrt" else ""
    return f"rebuild it{where} with `moir-edge build {bundle} --target {target}`"


def _target_here(entry: EngineEntry, builder: str, capability: str | None) -> str | None:
    capability = capability or entry.compute_capability
    names = [
        target.name
        for target in TARGETS.values()
        if target.builder == builder and target.compute_capability == capability
    ]
    if entry.target in names:
        return entry.target
    return names[0] if names else None
