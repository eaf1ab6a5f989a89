"""A decoder's graph for ONNX Runtime: attention as one operator, with a cache that is written in place."""

from __future__ import annotations

from moir_edge.graphs.fused.decoder import fuse_decoder
from moir_edge.graphs.fused.patterns import NotFusedError

__all__ = ["FUSED_SUFFIX", "NotFusedError", "fuse_decoder"]

FUSED_SUFFIX = ".fused"
"""Ending of a fused graph's name, before ``.onnx``."""
