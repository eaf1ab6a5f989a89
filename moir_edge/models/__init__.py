"""Facts per Hugging Face `model_type`; one file each, so that adding one is adding a file and an import."""

from __future__ import annotations

from moir_edge.models import (  # noqa: F401  (importing registers them)
    aya_vision,
    fast_vlm,
    gemma3,
    granite_docling,
    internvl,
    llava,
    llava_next,
    mistral3,
    paligemma,
    qwen3_vl,
    qwen_vl,
    smolvlm,
)
from moir_edge.models.base import Architecture, TileArchitecture
from moir_edge.models.registry import (
    architecture_names,
    get_architecture,
    register,
)

__all__ = [
    "Architecture",
    "TileArchitecture",
    "architecture_names",
    "get_architecture",
    "register",
]
