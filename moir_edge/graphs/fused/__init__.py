"""Graphs for ONNX Runtime: attention as one operator, in a decoder with a cache that is written in place."""

from __future__ import annotations

from moir_edge.graphs.fused.decoder import fuse_decoder
from moir_edge.graphs.fused.patterns import NotFusedError
from moir_edge.graphs.fused.vision import fuse_vision

__all__ = ["FUSED_SUFFIX", "NotFusedError", "fuse_decoder", "fuse_vision"]

FUSED_SUFFIX = ".fused"
"""Ending of a fused graph's name, before ``.onnx``."""
