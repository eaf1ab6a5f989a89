"""Judgement on each provider of `moir-edge run`: ready, or the reason and the command that makes it so."""

from __future__ import annotations

from dataclasses import dataclass

from moir_edge.device.hardware import Hardware
from moir_edge.device.system import System
from moir_edge.doctor.installed import Installed
from moir_edge.runtime.cuda_start import CUDA_PACKAGE
from moir_edge.runtime.openvino.library import OLDEST_OPENVINO
from moir_edge.targets import Target
from moir_edge.tensorrt_api import OLDEST_TENSORRT

__all__ = ["ProviderState", "judge_providers"]

_PYTHON_OF_CUDA_WHEELS = (3, 11)  # PyPI's onnxruntime-gpu 1.31 has no wheel for older ones


@dataclass(frozen=True, kw_only=True)
class ProviderState:
    """Whether a provider runs here.

    Attributes:
        name: As given to ``--provider``.
        ready: It runs.
        reason: Why not, or its version.
        command: Brings what is missing; None where nothing would.
    """

    name: str
    ready: bool
    reason: str
    command: str | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Everything that is known of a machine.

    Attributes:
        system: The reader.
        hardware: Its parts.
        installed: Its software.
        capability: Compute capability of its GPU; None without one.
        target: The profile of its GPU; None without one.
    """

    system: System
    hardware: Hardware
    installed: Installed
    capability: str | None
    target: Target | None

    @property
    def driver_cuda(self) -> int | None:
        """Major version of the newest CUDA that the driver runs."""
        said = next((gpu.cuda for gpu in self.hardware.gpus if gpu.cuda), None)
        return int(said.partition(".")[0]) if said else None


def judge_providers(machine: Machine) -> tuple[ProviderState, ...]:
    """Return the state of every provider, in the order in which `moir-edge run` prefers them; then those it never chooses."""
    cuda, cpu = _cuda(machine), _cpu(machine)
    preferred = (_engines(machine), cuda, _compiled_graphs(machine, cuda), cpu)
    return (*preferred, *(_openvino(machine, cpu, name) for name in ("openvino", "openvino-fast")))


def _openvino(machine: Machine, cpu: ProviderState, name: str) -> ProviderState:
    """Judge a provider that shares the work on the CPU with ONNX Runtime."""
    version = machine.installed.packages.get("openvino")
    if not cpu.ready:
        return _missing(name, f"it needs the cpu provider: {cpu.reason}", cpu.command)
    if version is None:
        return _missing(name, "openvino is not installed", "pip install 'moir-edge[openvino]'")
    if _numbers(version) < OLDEST_OPENVINO:
        reason = f"openvino {version} is older than {'.'.join(map(str, OLDEST_OPENVINO))}"
        return _missing(name, reason, "pip install -U 'moir-edge[openvino]'")
    return _ready(name, f"openvino {version}")


def _cpu(machine: Machine) -> ProviderState:
    if "CPUExecutionProvider" in machine.installed.providers:
        return _ready("cpu", f"onnxruntime {_runtime_version(machine)}")
    reason = next(iter(machine.installed.notes), "onnxruntime is not installed")
    return _missing("cpu", reason, "pip install --force-reinstall onnxruntime")


def _cuda(machine: Machine) -> ProviderState:
    if machine.capability is None:
        return _missing("cuda", "there is no NVIDIA GPU here, or its driver is missing")
    if "CUDAExecutionProvider" not in machine.installed.providers:
        reason = "this onnxruntime is the one without CUDA"
        if _without_cuda_wheels(machine.installed):
            return _missing("cuda", f"{reason}; PyPI has no other for this Python on arm64")
        return _missing("cuda", reason, CUDA_PACKAGE)
    problem = machine.installed.cuda_problem
    if problem is not None:
        reason, _, command = problem.partition("; ")
        return _missing("cuda", reason, _quoted(command))
    return _ready("cuda", f"onnxruntime-gpu {_runtime_version(machine)}")


def _compiled_graphs(machine: Machine, cuda: ProviderState) -> ProviderState:
    if not cuda.ready:
        return _missing("ort-tensorrt", f"it needs the cuda provider: {cuda.reason}", cuda.command)
    if "TensorrtExecutionProvider" not in machine.installed.providers:
        return _missing("ort-tensorrt", "this onnxruntime is built without TensorRT")
    if "libnvinfer.so.10" not in machine.system.output("ldconfig", "-p"):
        return _missing(
            "ort-tensorrt",
            "TensorRT's library libnvinfer.so.10 is not on the loader's path",
            _tensorrt_command(machine),
        )
    return _ready("ort-tensorrt", f"onnxruntime-gpu {_runtime_version(machine)}")


def _engines(machine: Machine) -> ProviderState:
    """Judge the provider that runs a bundle's engines."""
    if machine.capability is None:
        return _missing("tensorrt", "there is no NVIDIA GPU here, or its driver is missing")
    if machine.target is None:
        return _missing("tensorrt", f"no target has a GPU of SM {machine.capability}")
    package = machine.target.builder.replace("_", "-")
    version = machine.installed.packages.get(package)
    if version is None:
        return _missing("tensorrt", f"{package} is not installed", _tensorrt_command(machine))
    if package == "tensorrt" and _numbers(version) < OLDEST_TENSORRT:
        reason = f"TensorRT {version} is older than {'.'.join(map(str, OLDEST_TENSORRT))}"
        return _missing("tensorrt", reason, "sudo apt install --only-upgrade nvidia-jetpack")
    return _bindings(machine) or _ready("tensorrt", f"{package} {version}")


def _bindings(machine: Machine) -> ProviderState | None:
    """Return what is wrong with CUDA's Python bindings; None where they fit the driver."""
    version = machine.installed.packages.get("cuda-bindings")
    extra = "tensorrt" if machine.hardware.board else "rtx"
    if version is None:
        reason = "the package cuda-bindings is not installed"
        return _missing("tensorrt", reason, f"pip install 'moir-edge[{extra}]'")
    driver = machine.driver_cuda
    if driver is not None and _numbers(version)[0] > driver:
        reason = f"cuda-bindings {version} is newer than the driver, which runs CUDA {driver}"
        return _missing("tensorrt", reason, f"pip install 'cuda-bindings<{driver + 1}'")
    return None


def _tensorrt_command(machine: Machine) -> str | None:
    """Return the command that brings the module which runs engines here."""
    board = machine.hardware.board
    if machine.target is None:
        return None
    if board is None:
        builder = machine.target.builder
        return "pip install 'moir-edge[rtx]'" if builder == "tensorrt_rtx" else None
    if board.tensorrt_package:  # installed, but a virtual environment does not see it
        return "python3 -m venv --system-site-packages VENV && VENV/bin/pip install 'moir-edge[tensorrt]'"
    name = "python3-libnvinfer" if board.jetpack_package else "nvidia-jetpack"
    return f"sudo apt update && sudo apt install {name}"


def _without_cuda_wheels(installed: Installed) -> bool:
    return installed.architecture == "aarch64" and _numbers(installed.python) < (
        _PYTHON_OF_CUDA_WHEELS
    )


def _runtime_version(machine: Machine) -> str:
    packages = machine.installed.packages
    return packages.get("onnxruntime-gpu") or packages.get("onnxruntime", "of unknown version")


def _quoted(text: str) -> str | None:
    """Return the command that stands in backquotes."""
    parts = text.split("`")
    return parts[1] if len(parts) > 1 else None


def _numbers(version: str) -> tuple[int, ...]:
    """Return ``(10, 3)`` from ``10.3.0+x``: the first two numbers."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _ready(name: str, version: str) -> ProviderState:
    return ProviderState(name=name, ready=True, reason=version)


def _missing(name: str, reason: str, command: str | None = None) -> ProviderState:
    return ProviderState(name=name, ready=False, reason=reason, command=command)
