"""Select the engines of a bundle that this machine runs, or say what to do without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from moir_edge.bundle.engines import check_engine, find_engine
from moir_edge.bundle.manifest import EngineEntry
from moir_edge.errors import BundleError, EnvironmentProblem, MoirEdgeError
from moir_edge.runtime.tensorrt.cuda import load_cuda
from moir_edge.targets import TARGETS, Target
from moir_edge.tensorrt_api import device_compute_capability, load_tensorrt, version_text

if TYPE_CHECKING:
    from moir_edge.bundle import Bundle

__all__ = ["EngineSet", "choose_engines", "engines_fit"]


@dataclass(frozen=True)
class EngineSet:
    """The engines that fit.

    Attributes:
        trt: The module that loads them.
        entries: One per component of the bundle.
    """

    trt: Any
    entries: dict[str, EngineEntry]


def engines_fit(bundle: Bundle) -> bool:
    """Return whether the bundle holds engines that this machine can run, without touching the GPU's memory."""
    capability = device_compute_capability() if bundle.manifest.engines else None
    if capability is None:
        return False
    try:
        load_cuda()
        choose_engines(bundle, capability)
    except MoirEdgeError:
        return False
    return True


def choose_engines(bundle: Bundle, compute_capability: str) -> EngineSet:
    """Return the engines of every component for a GPU.

    Args:
        bundle: An opened bundle.
        compute_capability: The GPU's, as in ``"8.9"``.

    Raises:
        BundleError: The bundle holds no engines that fit; the message has the command that builds them.
        EnvironmentProblem: No target of moir-edge has such a GPU, or the module that loads the engines is missing.
    """
    target = _target(compute_capability)
    manifest, builder = bundle.manifest, target.builder
    found = {
        name: find_engine(manifest, name, builder=builder, compute_capability=compute_capability)
        for name in manifest.components
    }
    entries = {name: entry for name, entry in found.items() if entry is not None}
    if len(entries) < len(found):
        _refuse(bundle, target, next(name for name in found if name not in entries))
    trt = load_tensorrt(builder)  # type: ignore[arg-type]  # no target with an SM has ONNX Runtime as builder
    for entry in entries.values():
        check_engine(
            entry,
            manifest,
            builder=builder,
            version=version_text(trt),
            compute_capability=compute_capability,
            bundle=bundle.path,
        )
    return EngineSet(trt, entries)


def _target(compute_capability: str) -> Target:
    for target in TARGETS.values():
        if target.compute_capability == compute_capability:
            return target
    raise EnvironmentProblem(
        f"no target of moir-edge has this GPU's SM {compute_capability}, so there are no engines for it; "
        "run with `provider='cuda'` (targets: `moir-edge targets`)"
    )


def _refuse(bundle: Bundle, target: Target, component: str) -> NoReturn:
    """Raise what is wrong with the engines there are; if nothing is, that there is none of this component."""
    for entry in bundle.manifest.engines:
        check_engine(
            entry,
            bundle.manifest,
            builder=target.builder,
            version=entry.builder_version,  # the module is not loaded yet, and another GPU is reason enough
            compute_capability=target.compute_capability,
            bundle=bundle.path,
        )
    raise BundleError(
        f"{bundle.path} has no {target.builder} engine of the {component} for this GPU's SM {target.compute_capability}; "
        f"build it with `moir-edge build {bundle.path} --target {target.name}`"
    )
