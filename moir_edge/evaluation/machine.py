"""Facts of the machine that a reader needs to judge a latency: CPU, cores, load, stolen time."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from moir_edge.device.board import read_board
from moir_edge.device.sensors import Telemetry, read_telemetry
from moir_edge.device.system import System
from moir_edge.evaluation.provenance import BoardReadings, Machine

__all__ = [
    "BoardWatch",
    "CpuTimes",
    "available_cores",
    "busy_notices",
    "cpu_model",
    "describe_machine",
    "load_average",
]

_PACKAGES = (
    *(
        "moir-edge",
        "numpy",
        "onnxruntime",
        "onnxruntime-gpu",
        "openvino",
        "tensorrt",
        "tensorrt-rtx",
    ),
    *("tokenizers", "torch", "transformers"),
)
MOST_STEAL_PERCENT = 5.0
"""Share of stolen CPU time that goes without a notice: under it a median of times hardly moves."""

_STEAL = 7  # the eighth figure of the "cpu" line of /proc/stat
_GUEST = 8  # guest time is already counted in user time


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model(
    cpuinfo: Path = Path("/proc/cpuinfo"), board: Path = Path("/proc/device-tree/model")
) -> str:
    """Return the name of the CPU; on boards whose kernel gives none (Jetson), the name of the board.

    Args:
        cpuinfo: The kernel's list of CPUs.
        board: The device tree's name of the board.
    """
    for line in _read(cpuinfo).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    name = _read(board).strip("\0\n ")
    return name or platform.processor() or platform.machine()


class CpuTimes:
    """CPU time since this object was made, from the kernel's counters."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        """Remember the counters of now.

        Args:
            stat: The kernel's counters.
        """
        self._stat = stat
        self._start = self._counters()

    def steal_percent(self) -> float | None:
        """Return the share of CPU time that the hypervisor took away, in %; None off Linux."""
        now = self._counters()
        if not now or not self._start:
            return None
        spent = [after - before for before, after in zip(self._start, now, strict=True)]
        total = sum(spent[:_GUEST])
        return 100.0 * spent[_STEAL] / total if total else 0.0

    def _counters(self) -> list[int]:
        first = _read(self._stat).partition("\n")[0].split()
        return [int(field) for field in first[1:]] if len(first) > _STEAL + 1 else []


class BoardWatch:
    """Sensors of a board since this object was made.

    Args:
        system: Reads the machine; this one by default.
    """

    def __init__(self, system: System | None = None) -> None:
        self._system = system or System()
        self._start = read_telemetry(self._system) if read_board(self._system) else None

    def readings(self) -> BoardReadings | None:
        """Return the sensors then and now; None where the machine is not a board."""
        if self._start is None:
            return None
        now = read_telemetry(self._system)
        events = (self._start.throttle_events, now.throttle_events)
        return BoardReadings(
            power_mode=now.power_mode,
            gpu_mhz=(self._start.gpu_mhz, now.gpu_mhz),
            cpu_mhz=(self._start.cpu_mhz, now.cpu_mhz),
            hottest_c=(_hottest(self._start), _hottest(now)),
            throttle_events=None if None in events else events[1] - events[0],  # type: ignore[operator]
        )


def _hottest(telemetry: Telemetry) -> float | None:
    return max(telemetry.temperatures_c.values(), default=None)


def describe_machine(
    load_before: float, steal_percent: float | None, board: BoardReadings | None = None
) -> Machine:
    """Collect the facts of this machine.

    Args:
        load_before: 1-minute load average before anything was loaded.
        steal_percent: What `CpuTimes` gave for the latency phase.
        board: What `BoardWatch` gave for it.
    """
    return Machine(
        cpu=cpu_model(),
        cores=available_cores(),
        memory_bytes=_memory_bytes(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages=_package_versions(),
        load_average_before=load_before,
        load_average_after=load_average(),
        steal_percent=steal_percent,
        board=board,
    )


def busy_notices(machine: Machine) -> tuple[str, ...]:
    """Return what a report must say at the top where something else may have moved its times; empty on a quiet machine."""
    loads = (machine.load_average_before, machine.load_average_after)
    found = []
    if max(loads) > machine.cores:
        found.append(
            f"load average {loads[0]:.2f} before and {loads[1]:.2f} after the measurement on {machine.cores} "
            f"core{'' if machine.cores == 1 else 's'}"
        )
    if machine.steal_percent is not None and machine.steal_percent > MOST_STEAL_PERCENT:
        found.append(f"{machine.steal_percent:.1f} % of CPU time taken by the hypervisor")
    notices = []
    if found:
        notices.append(
            f"The machine was busy: {', '.join(found)}. Times are less certain than they look."
        )
    events = machine.board.throttle_events if machine.board else None
    if events:
        notices.append(
            f"The board lowered its clocks {events} time{'' if events == 1 else 's'} for a too large current "
            "during the measurement. Use a stronger supply or a lower power mode."
        )
    return tuple(notices)


def load_average() -> float:
    """Return the 1-minute load average, 0 where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _package_versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
