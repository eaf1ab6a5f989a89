"""Sensors of a board: power of its rails, temperatures, clocks, the GPU's load, and the power mode.

The kernel's files are read; `tegrastats` is asked only where they show no rail.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

from moir_edge.device.board import read_power_modes
from moir_edge.device.system import System

__all__ = ["Rail", "Telemetry", "find_rails", "read_rails", "read_telemetry", "total_power"]

# Rails that together are the whole input, the widest scope first; rails that are fed by one of them are left out.
# Source: NVIDIA Jetson Linux Developer Guide, "Software-Based Power Consumption Modeling", and the boards' schematics.
_TOTALS = (
    ("VIN",),  # Thor's developer kit, carrier board included
    ("VDD_IN",),  # Orin Nano, Orin NX
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor's module
)
_CHANNELS = (1, 2, 3)  # the fourth and later ones of an INA3221 are shunt voltages and sums
_COLDEST = -100.0  # °C; a zone whose part is switched off shows -256


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """One reading of a board's sensors; what a board lacks is empty or None.

    Attributes:
        power_mode: As `nvpmodel` names it.
        rails_w: Power of each rail, W.
        total_w: Power of the whole input, W; None where the rails do not add up to it.
        temperatures_c: Temperature of each thermal zone, °C.
        gpu_mhz: Clock of the GPU.
        cpu_mhz: Clock of the fastest CPU at this moment.
        gpu_load_percent: Share of time in which the GPU was busy.
        throttle_events: How often the hardware lowered clocks for a too large current, since it was switched on.
    """

    power_mode: str | None = None
    rails_w: dict[str, float] = field(default_factory=dict)
    total_w: float | None = None
    temperatures_c: dict[str, float] = field(default_factory=dict)
    gpu_mhz: float | None = None
    cpu_mhz: float | None = None
    gpu_load_percent: float | None = None
    throttle_events: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Rail:
    """Files that give the power of one rail.

    Attributes:
        name: As the board's makers call it.
        factors: Their product is the power.
        scale: Of the product, to W.
    """

    name: str
    factors: tuple[str, ...]
    scale: float

    def power(self, system: System) -> float | None:
        """Return the power now in W; None where a file cannot be read."""
        values = [system.number(path) for path in self.factors]
        read = [value for value in values if value is not None]
        return self.scale * prod(read) if len(read) == len(values) else None


def read_telemetry(system: System | None = None, *, ask_tools: bool = True) -> Telemetry:
    """Return what the board's sensors say now.

    Args:
        system: Reads the machine; this one by default.
        ask_tools: Ask `nvpmodel`, and where the kernel shows no rail `tegrastats`; without them a reading takes some
            milliseconds and the power mode is the one that `nvpmodel` noted last.
    """
    system = system or System()
    rails = read_rails(system, find_rails(system))
    temperatures, gpu = _temperatures(system), _gpu_folder(system)
    if ask_tools and not rails:
        rails, told = _tegrastats(system)
        temperatures = temperatures or told
    clock = system.number(f"{gpu}/cur_freq") if gpu else None
    load = system.number(f"{gpu}/device/load") if gpu else None
    return Telemetry(
        power_mode=read_power_modes(system, ask=ask_tools).current,
        rails_w=rails,
        total_w=total_power(rails),
        temperatures_c=temperatures,
        gpu_mhz=None if clock is None else clock / 1e6,
        cpu_mhz=_cpu_mhz(system),
        gpu_load_percent=None if load is None else load / 10,
        throttle_events=_throttle_events(system),
    )


def find_rails(system: System) -> tuple[Rail, ...]:
    """Return the rails that the kernel shows of the board's power monitors."""
    rails: list[Rail] = []
    for folder in system.paths("/sys/class/hwmon/hwmon*"):
        monitor = system.text(f"{folder}/name")
        if monitor == "ina3221":
            rails += [one for channel in _CHANNELS for one in _channel(system, folder, channel)]
        elif monitor == "ina238":
            # It measures the board's input, in µW, and its driver gives it no name.
            name = system.text(f"{folder}/in1_label") or "VIN"
            rails.append(Rail(name=name, factors=(f"{folder}/power1_input",), scale=1e-6))
    return tuple(rails)


def read_rails(system: System, rails: tuple[Rail, ...]) -> dict[str, float]:
    """Return the power of each rail in W; a rail that cannot be read is left out."""
    powers = {rail.name: rail.power(system) for rail in rails}
    return {name: power for name, power in powers.items() if power is not None}


def total_power(rails: dict[str, float]) -> float | None:
    """Return the power of the whole input in W; None where no known set of rails is there."""
    for names in _TOTALS:
        if all(name in rails for name in names):
            return sum(rails[name] for name in names)
    return None


def _channel(system: System, folder: str, channel: int) -> list[Rail]:
    """Return the rail of one channel of an INA3221: mV times mA; none where nothing is connected."""
    label = system.text(f"{folder}/in{channel}_label")
    if not label or label == "NC":
        return []
    factors = (f"{folder}/in{channel}_input", f"{folder}/curr{channel}_input")
    return [Rail(name=label, factors=factors, scale=1e-6)]


def _temperatures(system: System) -> dict[str, float]:
    found = {}
    for folder in system.paths("/sys/class/thermal/thermal_zone*"):
        name, value = system.text(f"{folder}/type"), system.number(f"{folder}/temp")
        if name and value is not None and value / 1000 > _COLDEST:
            found[name] = value / 1000
    return found


def _gpu_folder(system: System) -> str | None:
    return next(iter(system.paths("/sys/class/devfreq/*gpu*")), None)


def _cpu_mhz(system: System) -> float | None:
    paths = system.paths("/sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq")
    clocks = [clock for path in paths if (clock := system.number(path)) is not None]
    return max(clocks) / 1000 if clocks else None


def _throttle_events(system: System) -> int | None:
    counts = []
    for folder in system.paths("/sys/class/hwmon/hwmon*"):
        if system.text(f"{folder}/name") == "soctherm_oc":
            files = system.paths(f"{folder}/oc*_event_cnt")
            counts += [count for path in files if (count := system.number(path)) is not None]
    return int(sum(counts)) if counts else None


def _tegrastats(system: System) -> tuple[dict[str, float], dict[str, float]]:
    """Return rails in W and temperatures in °C from one line of `tegrastats`; nothing where it is missing."""
    line = system.first_line("tegrastats", "--interval", "100")
    rails = re.findall(r"(V\w+) (\d+)mW/\d+mW", line)
    temperatures = re.findall(r"(\w+)@(-?[\d.]+)C", line)
    return (
        {name: int(power) / 1000 for name, power in rails},
        {name: float(value) for name, value in temperatures if float(value) > _COLDEST},
    )
