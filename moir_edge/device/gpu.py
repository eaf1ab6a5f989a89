"""The NVIDIA GPU that the driver's own tool sees."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moir_edge.device.system import System

__all__ = ["Gpu", "read_gpus"]

_FIELDS = ("name", "compute_cap", "memory.total", "driver_version")
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU.

    Attributes:
        name: As the driver names it.
        compute_capability: As in ``"8.9"``; None where the driver does not say.
        memory_bytes: Its own memory; None where it shares the machine's, as on a Jetson.
        driver: Version of the driver.
        cuda: Newest CUDA that the driver runs, ``"12.6"``; None where it does not say.
    """

    name: str
    compute_capability: str | None
    memory_bytes: int | None
    driver: str | None
    cuda: str | None


def read_gpus(system: System) -> tuple[Gpu, ...]:
    """Return the GPUs of `nvidia-smi`; none where the tool or the driver is missing."""
    query = f"--query-gpu={','.join(_FIELDS)}"
    lines = system.output("nvidia-smi", query, "--format=csv,noheader,nounits").splitlines()
    rows = [[field.strip() for field in line.split(",")] for line in lines]
    rows = [row for row in rows if len(row) == len(_FIELDS)]
    cuda = _cuda(system) if rows else None
    return tuple(_gpu(row, cuda) for row in rows)


def _gpu(row: list[str], cuda: str | None) -> Gpu:
    name, capability, memory, driver = row
    return Gpu(
        name=name,
        compute_capability=_matching(r"\d+\.\d+", capability),
        memory_bytes=int(memory) * _MIB if memory.isdigit() else None,
        driver=_matching(r"[\d.]+", driver),
        cuda=cuda,
    )


def _cuda(system: System) -> str | None:
    """Return the CUDA version of the table's head, which no query gives."""
    found = re.search(r"CUDA(?: UMD)? Version:\s*(\d+\.\d+)", system.output("nvidia-smi"))
    return found[1] if found else None


def _matching(pattern: str, text: str) -> str | None:
    """Return the text where the whole of it matches; Jetsons say ``[N/A]`` or ``N/A`` for what they do not have."""
    return text if re.fullmatch(pattern, text) else None
