"""Torch-free inference of a bundle: images, prompt, graphs, generation and the routing map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.lazy import lazy_names

if TYPE_CHECKING:
    from moir_edge.runtime.generation import Generation
    from moir_edge.runtime.model import EdgeModel, load
    from moir_edge.runtime.routing import RoutingMap
    from moir_edge.runtime.text_stream import TextStream
    from moir_edge.runtime.timing import Timings

__all__ = ["EdgeModel", "Generation", "RoutingMap", "TextStream", "Timings", "load"]

__getattr__ = lazy_names(
    __name__,
    {
        "model": ["EdgeModel", "load"],
        "text_stream": ["TextStream"],
        "generation": ["Generation"],
        "routing": ["RoutingMap"],
        "timing": ["Timings"],
    },
)
