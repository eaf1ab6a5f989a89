"""Import OpenVINO without its telemetry, and say how graphs are compiled and what that rounds."""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moir_edge.environment import missing_package
from moir_edge.errors import EnvironmentProblem, one_line

__all__ = ["DEVICE", "OLDEST_OPENVINO", "cpu_text", "load_openvino", "roundings", "settings_of"]

DEVICE = "CPU"

OLDEST_OPENVINO = (2026, 2)
"""The first release whose figures are those of ONNX Runtime on every family's graphs, as the tests compare them."""

_TELEMETRY = "openvino_telemetry"


def load_openvino() -> Any:
    """Import the package.

    Returns:
        The module. It is treated as one without types.

    Raises:
        EnvironmentProblem: It is not installed, its libraries do not load, it is too old, or it does not run on this CPU.
    """
    try:
        with _without_telemetry():
            module = importlib.import_module("openvino")
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise _broken(error) from error
        raise EnvironmentProblem(missing_package("openvino")) from error
    except ImportError as error:
        raise _broken(error) from error
    if version_tuple(module) < OLDEST_OPENVINO:
        oldest = ".".join(map(str, OLDEST_OPENVINO))
        raise EnvironmentProblem(
            f"OpenVINO {version_text(module)} is too old for these graphs, which need {oldest} or later; "
            "upgrade it with `pip install -U 'moir-edge[openvino]'`"
        )
    devices = list(module.Core().available_devices)
    if DEVICE not in devices:
        raise EnvironmentProblem(
            f"OpenVINO {version_text(module)} has no plugin for this CPU ({platform.machine()}; it offers "
            f"{', '.join(devices) or 'no device'}); run with `provider='cpu'`"
        )
    return module


def _broken(error: ImportError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"the Python module 'openvino' cannot be imported ({one_line(error)}); "
        "install it anew with `pip install --force-reinstall 'moir-edge[openvino]'`"
    )


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide `openvino_telemetry` inside the block: OpenVINO then imports a stub in its place.

    ``import openvino`` alone reports the use to Google Analytics, asks nobody, and leaves files in ``~/intel``. Seen in 2026.4.1
    (``openvino/tools/ovc/__init__.py``); a file in the home is the only other switch. A module that is there already is left alone.
    """
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # what Python documents for "cannot be imported"
    try:
        yield
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]


def version_text(module: Any) -> str:
    """Return the release, ``"2026.4.1"``, without the build."""
    return str(module.__version__).partition("-")[0]


def version_tuple(module: Any) -> tuple[int, ...]:
    """Return the release as numbers; what is not a number ends it."""
    numbers: list[int] = []
    for part in version_text(module).split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def settings_of(*, fast: bool, threads: int) -> dict[str, Any]:
    """Return the properties that a graph is compiled with.

    Args:
        fast: Let OpenVINO round where it likes: products and vectors in bfloat16 where the CPU multiplies it, activations in
            front of narrow weights to 8 bits, the cache to 8 bits. Off, it computes in float32.
        threads: Threads of one operator.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # Several processes on one machine would be pinned to the same cores.
        "ENABLE_CPU_PINNING": False,
        "EXECUTION_MODE_HINT": "PERFORMANCE" if fast else "ACCURACY",
    }


def roundings(compiled: Any, *, quantized: bool) -> list[str]:
    """Return what a compiled graph rounds besides its stored weights, as its own properties say; empty in exact mode.

    Args:
        compiled: An `openvino.CompiledModel`.
        quantized: Whether its weights are narrow.
    """
    found = []
    products = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if products not in ("f32", "dynamic"):
        found.append(f"products in {products}")
    group = compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")
    if quantized and group:
        found.append(f"activations to 8 bits in groups of {group}")
    cache = compiled.get_property("KV_CACHE_PRECISION").to_string()
    if cache != "f32":
        found.append(f"cache in {cache}")
    return found


def cpu_text(core: Any, root: Path = Path("/")) -> str:
    """Return what tells this CPU from others: OpenVINO's name for it, what it multiplies, and its instructions.

    Args:
        core: An `openvino.Core`.
        root: Where ``proc`` is mounted.
    """
    names = [platform.machine(), core.get_property(DEVICE, "FULL_DEVICE_NAME")]
    names += sorted(core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))
    return " ".join([*names, _flags(root)])


def _flags(root: Path) -> str:
    """Return the instruction sets of the first CPU; virtual machines give many CPUs one name."""
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    table: Mapping[str, str] = {
        line.partition(":")[0].strip(): line.partition(":")[2] for line in reversed(lines)
    }
    return " ".join(sorted((table.get("flags") or table.get("Features") or "").split()))
