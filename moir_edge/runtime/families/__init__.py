"""Computations of the host for each Hugging Face `model_type`, in numpy; one small file for each family."""

from __future__ import annotations

from moir_edge.runtime.families import (  # noqa: F401  (importing registers them)
    anyres,
    docling,
    gemma,
    mistral3,
    patches,
    qwen3,
    tiles,
)
from moir_edge.runtime.families.base import Family, ImageTokens
from moir_edge.runtime.families.registry import families, family_of

__all__ = ["Family", "ImageTokens", "families", "family_of"]
