"""Checkpoint to ONNX graphs to a bundle folder; imported as `moir_edge.export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if __name__ != "moir_edge.export":
    raise ImportError(f"import this package as moir_edge.export, not as {__name__}")

if TYPE_CHECKING:
    from moir_edge.export.bundle import export_bundle
    from moir_edge.export.checkpoints import Checkpoint, load_checkpoint
    from moir_edge.export.components import TracedModel, trace_components

__all__ = [
    "Checkpoint",
    "TracedModel",
    "export_bundle",
    "load_checkpoint",
    "trace_components",
]

_HOMES = {
    "Checkpoint": "checkpoints",
    "TracedModel": "components",
    "assemble": "assembly",
    "export_bundle": "bundle",
    "load_checkpoint": "checkpoints",
    "trace_components": "components",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    # Imported on first use: `moir_edge.export.engines` needs neither torch nor transformers.
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
