"""Write down what a TensorRT Python module offers: its classes, signatures, properties and enumerations, as JSON.

    pip download --no-deps tensorrt-cu12-bindings==10.3.0 && unzip -d bindings *.whl
    python tests/tensorrt_surface/record.py bindings > tests/tensorrt_surface/tensorrt-10.3.0.json

The bindings are on PyPI, the libraries behind them are not. The extension needs nine functions of these to be loaded, and calls none of
them to describe itself: empty ones, compiled here with `cc`, stand in.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL"),
    *("createInferRuntime_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion"),
    *("getPluginRegistry", "initLibNvInferPlugins"),
)
CLASSES = (
    *("Builder", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IExecutionContext"),
    *("IHostMemory", "ILayer", "ILogger", "INetworkDefinition", "IOptimizationProfile"),
    *("IOutputAllocator", "IProgressMonitor", "IRuntimeCache", "IRuntimeConfig", "ITensor"),
    *("ITimingCache", "OnnxParser", "OnnxParserRefitter", "ParserError", "Refitter", "Runtime"),
)


def describe(module: Any) -> dict[str, Any]:
    """Return version, classes and enumerations of a module."""
    present = [name for name in CLASSES if hasattr(module, name)]
    return {
        "version": module.__version__,
        "classes": {name: _describe_class(getattr(module, name)) for name in present},
        "enums": {
            name: {member: int(value.__members__[member]) for member in value.__members__}
            for name, value in vars(module).items()
            if isinstance(value, type) and hasattr(value, "__members__")
        },
    }


def _describe_class(kind: type) -> dict[str, Any]:
    methods: dict[str, list[str]] = {}
    properties: dict[str, dict[str, Any]] = {}
    constants = {}
    for name in dir(kind):
        value = getattr(kind, name)
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(value, property):
            properties[name] = _describe_property(value)
        elif callable(value) and not isinstance(value, type):
            methods[name] = _signatures(name, value.__doc__ or "")
        elif hasattr(value, "name") and not isinstance(value, type):
            constants[name] = type(value).__name__
    return {"methods": methods, "properties": properties, "constants": constants}


def _describe_property(value: property) -> dict[str, Any]:
    getter = (value.fget.__doc__ or "") if value.fget else ""
    found = re.search(r"-> (\S+)", getter)
    return {"type": _bare(found[1]) if found else "object", "settable": value.fset is not None}


def _signatures(name: str, text: str) -> list[str]:
    """Return the lines of a pybind docstring that are signatures, without the name of the package."""
    lines = re.findall(rf"^(?:\d+\. )?({re.escape(name)}\(.*\) -> .+)$", text, re.MULTILINE)
    return [_bare(line) for line in lines]


def _bare(text: str) -> str:
    return re.sub(r"\b(tensorrt|tensorrt_rtx|tensorrt_bindings|tensorrt_rtx_bindings)\.", "", text)


def import_bindings(folder: Path) -> Any:
    """Import `tensorrt_bindings` with empty libraries; only in a process that needs no real ones.

    Args:
        folder: Holds the unpacked wheel, or is the site-packages that it is installed in.
    """
    extension = (folder / "tensorrt_bindings" / "tensorrt.so").read_bytes()
    found = re.search(rb"libnvinfer\.so\.(\d+)", extension)
    if found is None:
        raise SystemExit(f"{folder} holds no TensorRT bindings")
    with tempfile.TemporaryDirectory() as scratch:
        for library in LIBRARIES:
            _load_empty_library(Path(scratch), f"lib{library}.so.{found[1].decode()}")
    sys.path.insert(0, str(folder))
    return importlib.import_module("tensorrt_bindings")


def _load_empty_library(scratch: Path, name: str) -> None:
    source = scratch / "empty.c"
    source.write_text(
        "".join(f"void *{function}(void) {{ return 0; }}\n" for function in FUNCTIONS)
    )
    command = [
        "cc",
        "-shared",
        "-fPIC",
        f"-Wl,-soname,{name}",
        str(source),
        "-o",
        str(scratch / name),
    ]
    subprocess.run(command, check=True)
    ctypes.CDLL(str(scratch / name), mode=ctypes.RTLD_GLOBAL)


if __name__ == "__main__":
    print(json.dumps(describe(import_bindings(Path(sys.argv[1]))), indent=1, sort_keys=True))  # noqa: T201
