"""Facts of the precisions."""

from __future__ import annotations

from moir_edge.targets import Target

__all__ = ["lacks_gpu_form", "takes_gpu_form"]

# Precisions whose graphs are in float32 where they are not quantized, unless converted here.
_QUANTIZED = ("int8", "int8-weight-only", "int4", "fp8", "nvfp4")


def lacks_gpu_form(precision: str, gpu_form: bool) -> bool:
    """Say whether a component of a bundle has to be converted before a GPU's builder gets it."""
    return precision in _QUANTIZED and not gpu_form


def takes_gpu_form(target: Target, precision: str) -> bool:
    """Say whether a component of that precision is exported to the target in the GPU's form."""
    return target.builder != "onnxruntime" and precision in _QUANTIZED
