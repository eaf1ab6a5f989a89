"""Torch-free inference of a bundle: images, prompt, graphs, generation and the routing map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moir_edge.runtime.generation import Generation
    from moir_edge.runtime.model import EdgeModel, TextStream, load
    from moir_edge.runtime.routing import RoutingMap
    from moir_edge.runtime.timing import Timings

__all__ = ["EdgeModel", "Generation", "RoutingMap", "TextStream", "Timings", "load"]

_HOME = {
    "EdgeModel": "model",
    "TextStream": "model",
    "load": "model",
    "Generation": "generation",
    "RoutingMap": "routing",
    "Timings": "timing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
