"""`moir-edge doctor`: what this machine has, what runs on it, and the commands that bring what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moir_edge.cli.common_options import json_option
from moir_edge.cli.terminal import new_console, print_json, print_table, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moir_edge.device.board import Board
    from moir_edge.doctor.diagnosis import Diagnosis

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("doctor")(doctor)


def doctor(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="Bundles to judge too: what runs them here.")
    ] = None,
    as_json: Annotated[bool, json_option("Print the diagnosis as JSON.")] = False,
) -> None:
    """Show what this machine has and runs. Names the command that brings what is missing. Exit 1 if a bundle does not run."""
    from moir_edge.doctor.diagnosis import diagnose_machine

    diagnosis = diagnose_machine(bundles or ())
    if as_json:
        print_json(diagnosis.to_dict())
    else:
        _print(diagnosis)
    if not diagnosis.healthy:
        raise typer.Exit(1)


def _print(diagnosis: Diagnosis) -> None:
    for name, value in _facts(diagnosis):
        say(f"{name:<12} {value}")
    say("")
    _print_providers(diagnosis)
    for one in diagnosis.bundles:
        say("")
        say(f"bundle {one.path} (target {one.target}, weights {_size(one.weight_bytes)})")
        say(f"  runs on {one.provider}" if one.provider else "  does not run here")
        if one.reason:
            say(f"  {one.reason}")
        if one.command:
            say(f"  → {one.command}")
    say("")
    if not diagnosis.findings:
        say("nothing is missing")
    for finding in diagnosis.findings:
        say(f"{finding.kind}: {finding.what}")
        if finding.command:
            say(f"  → {finding.command}")
    for command, names in _further(diagnosis).items():
        say(f"optional: {' and '.join(names)}")
        say(f"  → {command}")


def _further(diagnosis: Diagnosis) -> dict[str, list[str]]:
    """Return the commands that bring further providers, beside those of the findings."""
    told = {one.command for one in diagnosis.findings}
    found: dict[str, list[str]] = {}
    for state in diagnosis.providers:
        if state.command and state.command not in told:
            found.setdefault(state.command, []).append(state.name)
    return found


def _print_providers(diagnosis: Diagnosis) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("provider", no_wrap=True)
    table.add_column("runs here", no_wrap=True)
    table.add_column("")
    for state in diagnosis.providers:
        table.add_row(state.name, "yes" if state.ready else "no", state.reason)
    print_table(table, new_console())


def _facts(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    """Give the lines of the machine and its software."""
    hardware, installed = diagnosis.hardware, diagnosis.installed
    if hardware.board is not None:
        yield "board", _board(hardware.board)
    yield "cpu", f"{hardware.cpus} x {hardware.cpu}, {installed.architecture}"
    if hardware.memory_bytes is not None:
        free = _size(hardware.available_bytes or 0)
        yield "memory", f"{_size(hardware.memory_bytes)}, {free} free"
    for gpu in hardware.gpus:
        memory = "memory shared" if gpu.memory_bytes is None else _size(gpu.memory_bytes)
        driver = f"driver {gpu.driver}" if gpu.driver else "driver not known"
        cuda = f", CUDA {gpu.cuda}" if gpu.cuda else ""
        yield "gpu", f"{gpu.name}, SM {diagnosis.compute_capability}, {memory}, {driver}{cuda}"
    if not hardware.gpus:
        sm = diagnosis.compute_capability
        yield "gpu", f"SM {sm}" if sm else "no NVIDIA GPU found"
    if hardware.power is not None:
        yield "power mode", hardware.power.current or "not known"
    yield "system", f"{installed.system}, Python {installed.python}"
    yield "packages", _packages(diagnosis)
    yield "targets", ", ".join(diagnosis.targets)
    yield "extras", _extras(diagnosis)


def _board(board: Board) -> str:
    jetpack = f"JetPack {board.jetpack}" if board.jetpack else "JetPack not known"
    l4t = f" (Jetson Linux {board.l4t})" if board.l4t else ""
    tensorrt = f", TensorRT {board.tensorrt_package}" if board.tensorrt_package else ""
    return f"{board.model}, {jetpack}{l4t}{tensorrt}"


def _packages(diagnosis: Diagnosis) -> str:
    from moir_edge.doctor.installed import SHOWN

    packages = diagnosis.installed.packages
    return ", ".join(f"{name} {packages[name]}" for name in SHOWN if name in packages)


def _extras(diagnosis: Diagnosis) -> str:
    ready = [one.name for one in diagnosis.extras if not one.missing]
    missing = [one.name for one in diagnosis.extras if one.missing]
    others = f"; not installed: {', '.join(missing)}" if missing else ""
    return (", ".join(ready) or "none installed") + others


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
