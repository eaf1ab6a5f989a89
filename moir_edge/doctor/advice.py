"""Findings: what this machine lacks or does slowly, each with the command that helps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from moir_edge.doctor.providers import Machine, ProviderState

__all__ = ["Finding", "find_faults"]

_OLDEST_JETPACK = (6, 1)
_FREE_BYTES = 2 << 30  # a 2B model in int4 with its cache; a desktop takes about half of it
_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # PCI class of display controllers


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to do.

    Attributes:
        kind: ``missing`` for what keeps something from running, ``slow`` for what costs time.
        what: One sentence.
        command: What to type; None where no command helps.
    """

    kind: Literal["missing", "slow"]
    what: str
    command: str | None = None


def find_faults(machine: Machine, providers: tuple[ProviderState, ...]) -> tuple[Finding, ...]:
    """Return what is missing, and what costs time."""
    return (*_driver(machine), *_jetpack(machine), *_provider(providers), *_speed(machine))


def _driver(machine: Machine) -> Iterator[Finding]:
    """Find a GPU that is plugged in and has no driver."""
    if machine.capability is not None:
        return
    for folder in machine.system.paths("/sys/bus/pci/devices/*"):
        vendor, kind = (machine.system.text(f"{folder}/{name}") for name in ("vendor", "class"))
        if vendor == _NVIDIA and kind.startswith(_DISPLAY):
            ubuntu = "ID=ubuntu" in machine.system.text("/etc/os-release").splitlines()
            yield Finding(
                kind="missing",
                what="an NVIDIA GPU is plugged in, and its driver is not loaded",
                command="sudo ubuntu-drivers install" if ubuntu else None,
            )
            return


def _jetpack(machine: Machine) -> Iterator[Finding]:
    board = machine.hardware.board
    if board is None:
        return
    version = board.jetpack or board.jetpack_package
    if version and _numbers(version) < _OLDEST_JETPACK:
        oldest = ".".join(map(str, _OLDEST_JETPACK))
        yield Finding(
            kind="missing",
            what=f"JetPack {version} has a TensorRT that does not take these graphs; flash JetPack {oldest} or later",
        )


def _provider(providers: tuple[ProviderState, ...]) -> Iterator[Finding]:
    """Find the command that makes the best provider ready; other commands stand beside their providers."""
    for state in providers:
        if state.ready:
            return
        if state.command:
            yield Finding(
                kind="missing", what=f"{state.name}: {state.reason}", command=state.command
            )
            return


def _speed(machine: Machine) -> Iterator[Finding]:
    hardware = machine.hardware
    if hardware.power is not None and hardware.power.faster is not None:
        number, name = hardware.power.faster
        now = f"the power mode is {hardware.power.current or 'not known'}"
        yield Finding(
            kind="slow", what=f"{now}; {name} is the fastest", command=f"sudo nvpmodel -m {number}"
        )
    if hardware.locked_clocks is False:
        yield Finding(
            kind="slow",
            what="clocks rise and fall with the load, so that first answers and measurements vary",
            command="sudo jetson_clocks",
        )
    free = hardware.available_bytes
    if hardware.board is not None and free is not None and free < _FREE_BYTES:
        yield Finding(
            kind="slow",
            what=f"{free / 1e9:.1f} GB of memory is free; a desktop session takes about 1 GB of it",
            command="sudo systemctl isolate multi-user.target",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".") if part.isdigit())
