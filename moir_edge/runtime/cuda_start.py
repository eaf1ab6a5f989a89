"""Check that ONNX Runtime's CUDA provider can start here, before a session asks for it.

A session whose provider lacks a library is made on the CPU instead, and native code writes the reason to stderr. So the
libraries and the driver are looked for first, and what is missing gets its name.
"""

from __future__ import annotations

import contextlib
import io
import re

from moir_edge.tensorrt_api import device_compute_capability

__all__ = ["CUDA_LIBRARIES", "CUDA_PACKAGE", "cuda_problem"]

CUDA_LIBRARIES = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
"""The command that brings CUDA's libraries and cuDNN for the installed onnxruntime-gpu."""

CUDA_PACKAGE = f"pip uninstall -y onnxruntime onnxruntime-gpu && {CUDA_LIBRARIES}"
"""The commands that put onnxruntime-gpu in the place of onnxruntime: both fill one folder, and the last one wins."""

# What `onnxruntime.preload_dlls` prints of a library that it found nowhere.
_NOT_FOUND = re.compile(r"^Failed to load ([^/\\\s]+): ", re.MULTILINE)


def cuda_problem() -> str | None:
    """Return why the CUDA provider cannot start, with the remedy; None where nothing is known to be missing.

    CUDA's libraries are loaded on the way. Without that, ONNX Runtime finds those on the loader's path alone, and not
    those that pip installed.
    """
    missing = _missing_libraries()
    if missing:
        return f"CUDA's libraries are missing ({', '.join(missing)}); install them with `{CUDA_LIBRARIES}`"
    if device_compute_capability() is None:
        return "the NVIDIA driver is missing or finds no GPU; install a driver for it"
    return None


def _missing_libraries() -> list[str]:
    """Load CUDA's libraries and return the names of those that are nowhere; empty before ONNX Runtime 1.21."""
    import onnxruntime

    preload = getattr(onnxruntime, "preload_dlls", None)
    said = io.StringIO()
    if preload is not None:
        with contextlib.redirect_stdout(said):
            preload()
    return list(dict.fromkeys(_NOT_FOUND.findall(said.getvalue())))
