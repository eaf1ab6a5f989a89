"""The target of a machine: the device profile that its GPU has."""

from __future__ import annotations

from moir_edge.device.hardware import Hardware
from moir_edge.doctor.installed import Installed
from moir_edge.targets import TARGETS, Target

__all__ = ["gpu_capability", "machine_target"]

_LARGE_ORIN = (
    "p3701"  # part number of the AGX modules, industrial ones and those of an IGX included
)


def gpu_capability(hardware: Hardware, installed: Installed) -> str | None:
    """Return the first GPU's compute capability: as the CUDA driver says, else its tool, else the board's chip."""
    if installed.compute_capability:
        return installed.compute_capability
    told = next((gpu.compute_capability for gpu in hardware.gpus if gpu.compute_capability), None)
    return told or (hardware.board.compute_capability if hardware.board else None)


def machine_target(hardware: Hardware, capability: str | None) -> Target | None:
    """Return the profile of this machine's GPU; None without a GPU, or where no profile has its compute capability."""
    fitting = [one for one in TARGETS.values() if one.sm and one.compute_capability == capability]
    if len(fitting) > 1 and hardware.board is not None:
        # Orin's modules share one compute capability.
        board = hardware.board
        large = "AGX" in board.model or (board.module or "").startswith(_LARGE_ORIN)
        fitting = [one for one in fitting if ("agx" in one.name) == large] or fitting
    return fitting[0] if fitting else None
