"""Checkpoint to ONNX graphs to a bundle folder; imported as `moir_edge.export`."""

from __future__ import annotations

if __name__ != "moir_edge.export":
    raise ImportError(f"import this package as moir_edge.export, not as {__name__}")
