"""Graphs to TensorRT engines, ahead of time or on the device; imports neither torch nor onnx nor TensorRT by itself."""

from __future__ import annotations

from moir_edge.engines.building import add_engines, build_engines, buildable_target
from moir_edge.engines.work import EngineOptions

__all__ = [
    "EngineOptions",
    "add_engines",
    "build_engines",
    "buildable_target",
]
