"""Packages that this Python sees, and what ONNX Runtime and the CUDA driver say of themselves."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import distributions

from moir_edge.tensorrt_api import device_compute_capability

__all__ = ["SHOWN", "Installed", "read_installed"]

SHOWN = (
    *("moir-edge", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx"),
    *("cuda-bindings", "numpy", "tokenizers", "pillow", "torch", "transformers"),
)
"""Packages whose versions people ask for first."""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """Software as this Python sees it.

    Attributes:
        system: ``Linux 5.15.148-tegra``.
        architecture: ``x86_64`` or ``aarch64``.
        python: Version.
        virtual: Whether this is a virtual environment.
        packages: Installed packages, by name in lower case with hyphens, and their versions.
        providers: Execution providers of ONNX Runtime; none where it cannot be imported.
        compute_capability: Of the first GPU, from the CUDA driver; None without one.
        cuda_problem: Why ONNX Runtime's CUDA provider cannot start although it is offered; None where nothing is missing.
        notes: Packages that are installed and cannot be imported, with the reason.
    """

    system: str
    architecture: str
    python: str
    virtual: bool
    packages: Mapping[str, str]
    providers: tuple[str, ...]
    compute_capability: str | None = None
    cuda_problem: str | None = None
    notes: tuple[str, ...] = field(default=())


def read_installed() -> Installed:
    """Return the software of this process."""
    providers, notes = _providers()
    return Installed(
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        python=platform.python_version(),
        virtual=sys.prefix != sys.base_prefix,
        packages=_packages(),
        providers=providers,
        compute_capability=device_compute_capability(),
        cuda_problem=_cuda_problem(providers),
        notes=notes,
    )


def _packages() -> dict[str, str]:
    named = ((one.metadata["Name"], one.version) for one in distributions())
    # A half-removed package has no name; of two with one name the first on the path is imported.
    found: dict[str, str] = {}
    for name, version in named:
        if name:
            found.setdefault(name.lower().replace("_", "-"), version)
    return found


def _providers() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return ONNX Runtime's providers, and why it cannot be imported."""
    try:
        import onnxruntime
    except ImportError as error:
        return (), (f"onnxruntime cannot be imported: {error}",)
    return tuple(onnxruntime.get_available_providers()), ()


def _cuda_problem(providers: tuple[str, ...]) -> str | None:
    if "CUDAExecutionProvider" not in providers:
        return None
    from moir_edge.runtime.cuda_start import cuda_problem

    return cuda_problem()
