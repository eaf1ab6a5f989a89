"""Checkpoint to ONNX graphs to a bundle folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.lazy import lazy_names

if TYPE_CHECKING:
    from moir_edge.checkpoint import Checkpoint, load_checkpoint
    from moir_edge.export.assembly import assemble
    from moir_edge.export.bundle import export_bundle
    from moir_edge.export.components import TracedModel, trace_components
    from moir_edge.export.settings import ExportSettings

__all__ = [
    "Checkpoint",
    "ExportSettings",
    "TracedModel",
    "assemble",
    "export_bundle",
    "load_checkpoint",
    "trace_components",
]

__getattr__ = lazy_names(
    __name__,
    {
        "components": ["Checkpoint", "TracedModel", "trace_components"],
        "assembly": ["assemble"],
        "bundle": ["export_bundle", "load_checkpoint"],
        "settings": ["ExportSettings"],
    },
)


def _register_formats() -> None:
    from moir_edge.export.registration import register_when_imported

    register_when_imported()


_register_formats()
