"""Estimate the memory of a build before it starts, so that a board does not run out."""

from __future__ import annotations

from pathlib import Path

from moir_edge.bundle import Manifest
from moir_edge.errors import EnvironmentProblem
from moir_edge.targets import Target

__all__ = ["available_memory_bytes", "check_build_memory", "estimate_build_memory"]

# Resident memory of a process that builds with TensorRT-RTX 1.7, fitted to the peaks that
# `python -m benchmarks.engines` measures: the loaded builder, copies of the weights, and what each operator
# becomes.
_BUILDER_BYTES = 225e6
_COPIES_OF_WEIGHTS = 3.1
_BYTES_PER_OPERATOR = 0.23e6
# What a node takes in a file, where the manifest does not count them.
_FILE_BYTES_PER_OPERATOR = 56
_MEMINFO = Path("/proc/meminfo")


def estimate_build_memory(folder: Path, manifest: Manifest, component: str, target: Target) -> int:
    """Return the peak memory of one component's build, in bytes.

    Args:
        folder: The bundle's folder.
        manifest: Names the component's files.
        component: Which one.
        target: On a Jetson the GPU's memory is the system's: the weights once more, which kernels are timed with.
    """
    entry = manifest.components[component]
    weights = entry.weight_bytes
    if weights is None:
        weights = sum(_size(folder / path) for path in entry.data)
    operators = entry.operators
    if operators is None:
        operators = _size(folder / entry.graph) // _FILE_BYTES_PER_OPERATOR
    copies = _COPIES_OF_WEIGHTS + (1 if target.builder == "tensorrt" else 0)
    return int(_BUILDER_BYTES + copies * weights + _BYTES_PER_OPERATOR * operators)


def _size(path: Path) -> int:
    """Return a file's size; one that is missing is the parser's to name."""
    return path.stat().st_size if path.is_file() else 0


def available_memory_bytes() -> int | None:
    """Return the memory that a new process can have here, swap included; None where the system does not tell."""
    if not _MEMINFO.is_file():
        return None
    fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines() if ":" in line)
    kilobytes = [int(fields.get(name, "0").split()[0]) for name in ("MemAvailable", "SwapFree")]
    return sum(kilobytes) * 1024


def check_build_memory(needed: dict[str, int], target: Target, available: int | None) -> None:
    """Refuse builds that this machine cannot hold.

    Args:
        needed: Component name to the estimate of its peak; they are built one after the other.
        target: Named in the message.
        available: From `available_memory_bytes`; None lets everything pass.

    Raises:
        EnvironmentProblem: What is needed, what there is, and what helps.
    """
    if not needed or available is None:
        return
    component = max(needed, key=lambda name: needed[name])
    if needed[component] <= available:
        return
    raise EnvironmentProblem(
        f"building the {component} engine for {target.name} takes about {needed[component] / 1e9:.1f} GB of memory, and "
        f"{available / 1e9:.1f} GB is free; close other programs, add swap, or export in a narrower precision"
    )
