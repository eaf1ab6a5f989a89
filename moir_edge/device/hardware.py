"""Processor, memory, board, GPUs and power mode of a machine, in one record."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moir_edge.device.board import Board, PowerModes, read_board, read_power_modes
from moir_edge.device.gpu import Gpu, read_gpus
from moir_edge.device.system import System

__all__ = ["Hardware", "read_hardware"]

# Arm's part numbers (linux/arch/arm64/include/asm/cputype.h): such kernels name no model.
_ARM_PARTS = {
    0xD05: "Cortex-A55",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse N1",
    0xD41: "Cortex-A78",
    0xD42: "Cortex-A78AE",
    0xD49: "Neoverse N2",
    0xD4F: "Neoverse V2",
    0xD83: "Neoverse V3AE",
    0xD85: "Cortex-X925",
    0xD87: "Cortex-A725",
}


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Parts of a machine and how its power is set.

    Attributes:
        cpu: Name of the processor's cores.
        cpus: How many the kernel counts.
        memory_bytes: Of the machine; a Jetson's GPU shares it.
        available_bytes: Of it what new programs can have.
        board: The Jetson; None for other machines.
        gpus: NVIDIA GPUs.
        power: Power modes of a Jetson; None for other machines.
        locked_clocks: Whether the GPU's clock is held at its highest, as by `jetson_clocks`; None where nothing tells.
    """

    cpu: str
    cpus: int
    memory_bytes: int | None
    available_bytes: int | None
    board: Board | None
    gpus: tuple[Gpu, ...]
    power: PowerModes | None
    locked_clocks: bool | None


def read_hardware(system: System) -> Hardware:
    """Return the facts of a machine."""
    board = read_board(system)
    cpuinfo = system.text("/proc/cpuinfo")
    return Hardware(
        cpu=_cpu(cpuinfo),
        cpus=max(1, len(re.findall(r"^processor\s*:", cpuinfo, re.M))),
        memory_bytes=_memory(system, "MemTotal"),
        available_bytes=_memory(system, "MemAvailable"),
        board=board,
        gpus=read_gpus(system),
        power=read_power_modes(system) if board else None,
        locked_clocks=_locked(system) if board else None,
    )


def _cpu(cpuinfo: str) -> str:
    parts = [int(part, 16) for part in re.findall(r"^CPU part\s*: (0x[0-9a-f]+)$", cpuinfo, re.M)]
    names = dict.fromkeys(_ARM_PARTS.get(part, f"Arm part {part:#x}") for part in parts)
    if names:
        return " and ".join(names)
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.M)
    return found[1].strip() if found else "unknown"


def _memory(system: System, key: str) -> int | None:
    found = re.search(rf"^{key}:\s*(\d+) kB$", system.text("/proc/meminfo"), re.M)
    return int(found[1]) * 1024 if found else None


def _locked(system: System) -> bool | None:
    """Return whether the GPU's lowest clock is its highest one."""
    for folder in system.paths("/sys/class/devfreq/*gpu*"):
        low, high = system.number(f"{folder}/min_freq"), system.number(f"{folder}/max_freq")
        if low is not None and high is not None:
            return low >= high
    return None
