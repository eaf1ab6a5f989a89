"""The decoder in ONNX Runtime: one that returns a grown cache, and one that writes into a window."""

from __future__ import annotations

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.runtime.component import Component
from moir_edge.runtime.decoders.growing import GrowingDecoder
from moir_edge.runtime.decoders.window import LENGTHS, WindowDecoder

__all__ = ["GrowingDecoder", "WindowDecoder", "decoder_of"]


def decoder_of(
    component: Component, facts: ModelFacts, device: str
) -> GrowingDecoder | WindowDecoder:
    """Return what runs a decoder's graph, by the inputs that it has.

    Args:
        component: Its session.
        facts: What the manifest says of the model.
        device: ONNX Runtime's name of the memory that holds the cache.
    """
    if LENGTHS in component.inputs:
        return WindowDecoder(component, facts)
    return GrowingDecoder(component, facts, device)
