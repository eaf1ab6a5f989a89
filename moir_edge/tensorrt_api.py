"""Names that differ between `tensorrt` (on the device) and `tensorrt_rtx` (ahead of time).

The two modules offer nearly the same classes, and so do TensorRT 10.3 and 11 among themselves. Code that builds or runs engines
takes the module as an argument, calls what all of them have, and asks here for the rest. Nothing is imported before it is
asked for: the device's runtime and the ahead-of-time builder both stand on this file.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from pathlib import Path
from typing import Any, Literal

from moir_edge.errors import EnvironmentProblem, UnsupportedError

__all__ = [
    "OLDEST_TENSORRT",
    "BuilderName",
    "builder_flag",
    "compute_capability",
    "device_compute_capability",
    "load_tensorrt",
    "load_weights",
    "make_log",
    "module_name",
    "network_flags",
    "version_text",
    "version_tuple",
]

BuilderName = Literal["tensorrt", "tensorrt_rtx"]

OLDEST_TENSORRT = (10, 3)
"""The first TensorRT that takes these graphs: int4 weights and model-local functions; JetPack 6.1 brings it."""

_REMEDY = {
    "tensorrt_rtx": "install it with `pip install 'moir-edge[rtx]'`",
    "tensorrt": "JetPack brings it: `sudo apt install python3-libnvinfer`, and make the virtual environment with "
    "--system-site-packages",
}
_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# CUdevice_attribute of the CUDA driver API.
_MAJOR, _MINOR = 75, 76


def load_tensorrt(name: BuilderName) -> Any:
    """Import one of the two modules.

    Args:
        name: ``tensorrt_rtx``, or ``tensorrt`` of 10.3 or later.

    Returns:
        The module. It carries no types of its own.

    Raises:
        EnvironmentProblem: It is not installed, its libraries do not load, or it is too old.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise EnvironmentProblem(
            f"the Python module {name!r} cannot be imported ({error}); {_REMEDY[name]}"
        ) from error
    if name == "tensorrt" and version_tuple(module) < OLDEST_TENSORRT:
        oldest = ".".join(map(str, OLDEST_TENSORRT))
        raise EnvironmentProblem(
            f"TensorRT {version_text(module)} is too old for these graphs, which need {oldest} or later; "
            "upgrade to JetPack 6.1 or later"
        )
    return module


def module_name(trt: Any) -> BuilderName:
    """Return which of the two modules this is: only `tensorrt_rtx` compiles for a GPU that is not there."""
    return "tensorrt_rtx" if hasattr(trt, "ComputeCapability") else "tensorrt"


def version_text(trt: Any) -> str:
    """Return the version as the module writes it, ``"10.3.0"``."""
    return str(trt.__version__)


def version_tuple(trt: Any) -> tuple[int, ...]:
    """Return the version as numbers, ``(10, 3, 0)``; what is not a number ends it."""
    numbers: list[int] = []
    for part in version_text(trt).split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def network_flags(trt: Any) -> int:
    """Return the flags of a strongly typed network.

    TensorRT 10 types a network weakly unless told; 11 knows no other than strongly typed networks, and a later one
    may drop the flag. An explicit batch axis is the default since 10.0.
    """
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if flag is None and version_tuple(trt) < (11,):
        raise UnsupportedError(f"TensorRT {version_text(trt)} has no strongly typed networks")
    return 0 if flag is None else 1 << int(flag)


def builder_flag(trt: Any, name: str) -> Any:
    """Return a member of `BuilderFlag`.

    Args:
        trt: Either module.
        name: Such as ``"REFIT"`` or ``"STRIP_PLAN"``.

    Raises:
        UnsupportedError: This version has no such flag.
    """
    flag = getattr(trt.BuilderFlag, name, None)
    if flag is None:
        raise UnsupportedError(f"{module_name(trt)} {version_text(trt)} has no builder flag {name}")
    return flag


def compute_capability(trt: Any, sm: int) -> Any:
    """Return the member of `ComputeCapability` for an SM such as 89; only `tensorrt_rtx` has them.

    Raises:
        UnsupportedError: It does not build for that SM.
    """
    member = getattr(trt.ComputeCapability, f"SM{sm}", None)
    if member is None:
        raise UnsupportedError(f"TensorRT-RTX {version_text(trt)} does not build for SM {sm}")
    return member


def make_log(trt: Any) -> Any:
    """Return a logger that prints nothing and keeps, in ``errors``, each error as one line."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the module is untyped
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()


def load_weights(trt: Any, engine: Any, graph: Path, log: Any) -> None:
    """Fill a stripped engine, or one that was built to be refitted, with the weights of a graph.

    Args:
        trt: The module that deserialized the engine.
        engine: The engine.
        graph: The ONNX file that it was compiled from, or one that differs in its weights alone.
        log: The logger of its runtime, from `make_log`.

    Raises:
        UnsupportedError: The engine takes no weights, or these do not fit it.
    """
    if not engine.refittable:
        raise UnsupportedError(
            f"the engine of {graph.name} does not accept new weights; build it with `refittable=True`"
        )
    refitter = trt.Refitter(engine, log)
    parser = trt.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_file(str(graph)):
        reason = parser.get_error(0).desc() if parser.num_errors else "; ".join(log.errors)
        raise UnsupportedError(
            f"the weights of {graph.name} do not fit its engine: {reason or 'no reason given'}"
        )
    if not refitter.refit_cuda_engine():
        raise UnsupportedError(
            f"the engine of {graph.name} cannot be refitted: {'; '.join(log.errors) or 'no reason given'}"
        )


def device_compute_capability(index: int = 0) -> str | None:
    """Ask the CUDA driver for a GPU's compute capability.

    Args:
        index: Which GPU.

    Returns:
        As NVIDIA writes it, ``"8.7"``; None without a driver or a GPU.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device, figure = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index):
        return None
    figures = []
    for attribute in (_MAJOR, _MINOR):
        if driver.cuDeviceGetAttribute(ctypes.byref(figure), attribute, device):
            return None
        figures.append(figure.value)
    return ".".join(map(str, figures))
