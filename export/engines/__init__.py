"""Graphs to TensorRT engines, ahead of time or on the device; imports neither torch nor onnx nor TensorRT by itself."""

from __future__ import annotations

from moir_edge.export.engines.building import add_engines, build_engines, buildable_target
from moir_edge.export.engines.work import EngineOptions, EngineProgress

__all__ = [
    "EngineOptions",
    "EngineProgress",
    "add_engines",
    "build_engines",
    "buildable_target",
]
