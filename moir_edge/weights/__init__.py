"""Files of a checkpoint and the weights in them: found, hashed, and whole or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.lazy import lazy_names

if TYPE_CHECKING:
    from moir_edge.weights.classes import check_known, generative_class, load_config
    from moir_edge.weights.files import check_files
    from moir_edge.weights.own_code import refuse_own_class
    from moir_edge.weights.source import resolve_checkpoint, weights_sha256
    from moir_edge.weights.whole import check_finite, load_whole

__all__ = [
    "check_files",
    "check_finite",
    "check_known",
    "generative_class",
    "load_config",
    "load_whole",
    "refuse_own_class",
    "resolve_checkpoint",
    "weights_sha256",
]

# torch and safetensors are imported only where weights are read.
__getattr__ = lazy_names(
    __name__,
    {
        "files": ["check_files"],
        "whole": ["check_finite", "load_whole"],
        "classes": ["check_known", "generative_class", "load_config"],
        "own_code": ["refuse_own_class"],
        "source": ["resolve_checkpoint", "weights_sha256"],
    },
)
