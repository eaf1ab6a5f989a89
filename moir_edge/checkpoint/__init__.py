"""The one way by which every command opens a checkpoint: model, router, tokenizer and processor, whole or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.lazy import lazy_names

if TYPE_CHECKING:
    from moir_edge.checkpoint.exportable import require_chat_template
    from moir_edge.checkpoint.loading import Checkpoint, load_checkpoint
    from moir_edge.checkpoint.processor import load_processor, processor_note
    from moir_edge.checkpoint.saving import write_checkpoint

__all__ = [
    "Checkpoint",
    "load_checkpoint",
    "load_processor",
    "processor_note",
    "require_chat_template",
    "write_checkpoint",
]

__getattr__ = lazy_names(
    __name__,
    {
        "loading": ["Checkpoint", "load_checkpoint"],
        "processor": ["load_processor", "processor_note"],
        "exportable": ["require_chat_template"],
        "saving": ["write_checkpoint"],
    },
)
