"""The diagnosis: the targets that a machine is, the state of every provider, and the findings with their commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moir_edge.bundle import open_bundle
from moir_edge.device.hardware import Hardware, read_hardware
from moir_edge.device.system import System
from moir_edge.doctor.advice import Finding, find_faults
from moir_edge.doctor.bundles import BundleState, judge_bundle
from moir_edge.doctor.extras import Extra, judge_extras
from moir_edge.doctor.installed import Installed, read_installed
from moir_edge.doctor.providers import Machine, ProviderState, judge_providers
from moir_edge.doctor.target import gpu_capability, machine_target

__all__ = ["Diagnosis", "diagnose_machine", "read_machine"]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything that `moir-edge doctor` says.

    Attributes:
        hardware: The machine.
        installed: Its software.
        compute_capability: Of the GPU, from the driver, its tool or the board; None without a GPU.
        targets: Names of the targets whose bundles are made for this machine, the GPU's first.
        providers: State of each provider of `moir-edge run`.
        findings: What is missing or slow, with the command that helps.
        extras: Which optional parts of moir-edge are installed.
        bundles: What runs each of the bundles that were named.
    """

    hardware: Hardware
    installed: Installed
    compute_capability: str | None
    targets: tuple[str, ...]
    providers: tuple[ProviderState, ...]
    findings: tuple[Finding, ...]
    extras: tuple[Extra, ...]
    bundles: tuple[BundleState, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether something runs here, and every named bundle does."""
        return any(one.ready for one in self.providers) and all(
            one.provider for one in self.bundles
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {"healthy": self.healthy, **asdict(self)}


def diagnose_machine(
    bundles: Sequence[str | Path] = (),
    *,
    system: System | None = None,
    installed: Installed | None = None,
) -> Diagnosis:
    """Return what a machine has, what runs on it and what is missing.

    Args:
        bundles: Bundle folders to judge besides.
        system: Reads the machine; this one by default.
        installed: Its software; this process's by default.

    Raises:
        BundleError: A bundle is damaged, or is not one.
    """
    opened = [open_bundle(path, verify=False) for path in bundles]
    machine = read_machine(system or System(), installed or read_installed())
    providers = judge_providers(machine)
    target = [machine.target.name] if machine.target else []
    return Diagnosis(
        hardware=machine.hardware,
        installed=machine.installed,
        compute_capability=machine.capability,
        targets=(*target, "cpu"),
        providers=providers,
        findings=find_faults(machine, providers),
        extras=judge_extras(machine.installed),
        bundles=tuple(judge_bundle(one, machine, providers) for one in opened),
    )


def read_machine(system: System, installed: Installed) -> Machine:
    """Return everything that is known of a machine."""
    hardware = read_hardware(system)
    capability = gpu_capability(hardware, installed)
    return Machine(
        system=system,
        hardware=hardware,
        installed=installed,
        capability=capability,
        target=machine_target(hardware, capability),
    )
