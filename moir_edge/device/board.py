"""NVIDIA Jetson boards: model, chip, JetPack, TensorRT's packages, and the power modes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moir_edge.device.system import System

__all__ = ["Board", "PowerModes", "read_board", "read_power_modes"]

_TREE = "/proc/device-tree"
_CHIPS = {"tegra234": "8.7", "tegra264": "11.0"}  # Orin, Thor: the compute capability of their GPUs

# Jetson Linux to JetPack, from NVIDIA's archive of JetPack releases; the apt package tells a later one.
_JETPACKS = {
    "36.2.0": "6.0",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.2": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
}
_FASTEST = ("MAXN_SUPER", "MAXN")


@dataclass(frozen=True, kw_only=True)
class PowerModes:
    """Power modes of a Jetson, as `nvpmodel` names them.

    Attributes:
        current: The mode that is set; None where nothing tells.
        modes: Number to name, from ``/etc/nvpmodel.conf``.
    """

    current: str | None
    modes: dict[int, str]

    @property
    def faster(self) -> tuple[int, str] | None:
        """Number and name of the mode without caps on clocks; None where it is set, or does not exist."""
        numbers = {name: number for number, name in self.modes.items()}
        name = next((name for name in _FASTEST if name in numbers), None)
        return None if name in (None, self.current) else (numbers[name], name)


@dataclass(frozen=True, kw_only=True)
class Board:
    """A Jetson.

    Attributes:
        model: As the device tree names it.
        chip: ``tegra234`` for Orin, ``tegra264`` for Thor.
        module: Part number, such as ``p3767-0005``; None where the device tree has none.
        compute_capability: Of its GPU; None for a chip that this table does not know.
        l4t: Version of Jetson Linux, ``36.4.3``; None where the release file is missing, as in a container.
        jetpack: Version of JetPack that the version of Jetson Linux belongs to; None for one that is not known.
        jetpack_package: Version of the apt package ``nvidia-jetpack``; None where it is not installed.
        tensorrt_package: Version of the apt package ``python3-libnvinfer``, hence of TensorRT's Python module.
    """

    model: str
    chip: str | None
    module: str | None
    compute_capability: str | None
    l4t: str | None
    jetpack: str | None
    jetpack_package: str | None
    tensorrt_package: str | None

    @property
    def major(self) -> int | None:
        """Major version of JetPack."""
        known = self.jetpack or self.jetpack_package
        return int(known.split(".")[0]) if known and known.split(".")[0].isdigit() else None


def read_board(system: System) -> Board | None:
    """Return the Jetson that this machine is; None for other machines."""
    compatible = system.text(f"{_TREE}/compatible")
    parts = [part for part in re.split(r"\0", compatible) if part]
    chip = next((part.partition(",")[2] for part in parts if ",tegra" in part), None)
    model = system.text(f"{_TREE}/model")
    if chip is None and "Jetson" not in model:
        return None
    module = re.search(r"nvidia,(p\d{4}-\d{4})", "\n".join(parts[1:]))
    l4t = _l4t(system.text("/etc/nv_tegra_release"))
    package = _package(system, "nvidia-jetpack")
    return Board(
        model=model or "Jetson",
        chip=chip,
        module=module[1] if module else None,
        compute_capability=_CHIPS.get(chip or ""),
        l4t=l4t,
        jetpack=_JETPACKS.get(l4t or "") or (package and package.partition("+")[0]),
        jetpack_package=package,
        tensorrt_package=_package(system, "python3-libnvinfer"),
    )


def read_power_modes(system: System, *, ask: bool = True) -> PowerModes:
    """Return the power modes of a Jetson; without any where the machine is not one.

    Args:
        system: Reads the machine.
        ask: Ask `nvpmodel` rather than read the note that it keeps.
    """
    conf = system.text("/etc/nvpmodel.conf")
    found = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\w+)\s*>", conf)
    modes = {int(number): name for number, name in found}
    answer = system.output("nvpmodel", "-q") if ask else ""
    said = re.search(r"NV Power Mode:\s*(\w+)", answer)
    if said:
        return PowerModes(current=said[1], modes=modes)
    # In a container the tool is missing, and its notes may be mounted.
    noted = re.search(r"pmode:(\d+)", system.text("/var/lib/nvpmodel/status"))
    return PowerModes(current=modes.get(int(noted[1])) if noted else None, modes=modes)


def _l4t(release: str) -> str | None:
    """Return ``36.4.3`` from ``# R36 (release), REVISION: 4.3, GCID: …``."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return f"{found[1]}.{found[2]}" if found else None


def _package(system: System, name: str) -> str | None:
    """Return the version of an installed Debian package."""
    words = ("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", name)
    status, _, version = system.output(*words).strip().partition(" ")
    return version if status == "installed" and version else None
