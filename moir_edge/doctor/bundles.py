"""Judgement on a bundle: the provider that runs it on this machine, and why a better one does not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moir_edge.bundle import Bundle
from moir_edge.bundle.engines import check_engine, find_engine
from moir_edge.doctor.providers import Machine, ProviderState
from moir_edge.errors import BundleError

__all__ = ["BundleState", "judge_bundle"]


@dataclass(frozen=True, kw_only=True)
class BundleState:
    """The way a bundle runs on this machine.

    Attributes:
        path: Its folder.
        target: The target that it was exported for.
        weight_bytes: Size of its weights, the least memory that it takes.
        provider: The provider that `moir-edge run` takes; None where the memory is too small.
        reason: Why it is not a better one; empty where it is the best.
        command: Leads to a better one; None where nothing is to be done.
    """

    path: str
    target: str
    weight_bytes: int
    provider: str | None
    reason: str
    command: str | None


def judge_bundle(
    bundle: Bundle, machine: Machine, providers: tuple[ProviderState, ...]
) -> BundleState:
    """Return how a bundle runs on a machine."""
    states = {state.name: state for state in providers}
    weights = sum(entry.tensor_bytes for entry in bundle.manifest.components.values())
    reason, command = _engines(bundle, machine, states["tensorrt"])
    chosen = "tensorrt" if not reason else "cuda" if states["cuda"].ready else "cpu"
    free = machine.hardware.available_bytes
    provider: str | None = chosen if states[chosen].ready else None
    if free is not None and weights > free:
        provider = None
        reason = f"its weights take {weights / 1e9:.1f} GB, and {free / 1e9:.1f} GB is free"
        command = None
    return BundleState(
        path=str(Path(bundle.path)),
        target=bundle.manifest.target,
        weight_bytes=weights,
        provider=provider,
        reason=reason,
        command=command,
    )


def _engines(bundle: Bundle, machine: Machine, state: ProviderState) -> tuple[str, str | None]:
    """Return why a bundle's engines do not run here, and the command that helps; an empty reason if they do."""
    if not state.ready or machine.target is None or machine.capability is None:
        return f"tensorrt: {state.reason}", state.command
    manifest, target = bundle.manifest, machine.target
    for name in manifest.components:
        entry = find_engine(
            manifest, name, builder=target.builder, compute_capability=machine.capability
        )
        if entry is None:
            build = f"moir-edge build {bundle.path} --target {target.name}"
            return f"it has no {target.builder} engine of the {name} for this GPU", build
        version = machine.installed.packages[target.builder.replace("_", "-")]
        try:
            check_engine(
                entry,
                manifest,
                builder=target.builder,
                version=version,
                compute_capability=machine.capability,
                bundle=bundle.path,
            )
        except BundleError as error:
            reason, _, advice = str(error).rpartition("; ")
            return reason, advice.partition("`")[2].rstrip("`") or None
    return "", None
