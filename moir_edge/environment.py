"""Name the extra that brings a missing import, and tell which ONNX Runtime is installed."""

from __future__ import annotations

import importlib.util

from moir_edge.errors import EnvironmentProblem

__all__ = ["missing_package", "onnxruntime_version", "require"]

_EXTRA_OF = {
    "torch": "export",
    "transformers": "export",
    "accelerate": "tune",
    "peft": "tune",
    "optimum": "export",
    "ml_dtypes": "export",
    "onnx": "export",
    "onnxscript": "export",
    "onnx_ir": "export",
    "openvino": "openvino",
    "safetensors": "export",
    "tensorrt_rtx": "rtx",
    "cuda": "rtx",
    "triton": "fused",
    "playwright": "dev",
    "sklearn": "demo",
    "datasets": "hub",
    "starlette": "serve",
    "uvicorn": "serve",
    "h11": "serve",
    "prometheus_client": "serve",
}


def missing_package(module: str, *, extra: str | None = None) -> str:
    """Return the one-line message for a module that is not installed.

    Args:
        module: Import name.
        extra: The extra that the command needs as a whole; None names the smallest that brings the module.
    """
    root = module.partition(".")[0]
    extra = extra or _EXTRA_OF.get(root)
    remedy = f"pip install 'moir-edge[{extra}]'" if extra else f"pip install {root}"
    return f"this needs the package {root!r}, which is not installed; install it with `{remedy}`"


def require(*modules: str, extra: str | None = None) -> None:
    """Check that top-level modules can be imported, without importing them.

    Args:
        modules: Import names, such as ``"torch"``.
        extra: As in `missing_package`.

    Raises:
        EnvironmentProblem: The first one that is missing, with the extra that brings it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise EnvironmentProblem(missing_package(module, extra=extra))


def onnxruntime_version() -> tuple[int, int]:
    """Return the first two numbers of ONNX Runtime's version."""
    import onnxruntime

    major, minor = onnxruntime.__version__.split(".")[:2]
    return int(major), int(minor)
