"""Copy what goes around the graphs: tokenizer, image processor, chat template, generation config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from moir_edge.errors import DataError
from moir_edge.export.checkpoints import Checkpoint

__all__ = ["write_assets"]

# Copied as they are where the processor's class cannot be built here.
_PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
)


def write_assets(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the files that the runtime reads besides the graphs.

    Args:
        checkpoint: The loaded checkpoint.
        folder: The bundle's folder.

    Raises:
        DataError: The tokenizer has no fast form (`tokenizer.json`), or the image processor no config.
    """
    checkpoint.tokenizer.save_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        raise DataError(
            f"{checkpoint.name} has no fast tokenizer; convert it so that tokenizer.json exists"
        )
    _write_processor(checkpoint, folder)
    _compact(folder / "tokenizer.json")
    checkpoint.model.generation_config.save_pretrained(folder)


def _write_processor(checkpoint: Checkpoint, folder: Path) -> None:
    from transformers import AutoProcessor

    try:
        processor: Any = AutoProcessor
        processor.from_pretrained(checkpoint.folder).save_pretrained(folder)
    except (ImportError, OSError, ValueError):
        # Some processors ask for packages (video, number words) that a bundle has no use for.
        for name in _PROCESSOR_FILES:
            if (checkpoint.folder / name).is_file():
                shutil.copyfile(checkpoint.folder / name, folder / name)
    if not any((folder / name).is_file() for name in _PROCESSOR_FILES[:2]):
        raise DataError(
            f"{checkpoint.name} has neither processor_config.json nor preprocessor_config.json; "
            "save its processor next to the weights"
        )


def _compact(path: Path) -> None:
    """Rewrite a JSON file without its indentation, which is half of a tokenizer's bytes."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
    )
