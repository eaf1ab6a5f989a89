"""Write what goes around the graphs: tokenizer, image processor, chat template, generation config."""

from __future__ import annotations

import json
from pathlib import Path

from moir_edge.checkpoint import Checkpoint, require_chat_template
from moir_edge.checkpoint.processor import chat_template, image_record
from moir_edge.errors import DataError, NotFiniteError
from moir_edge.finite import json_text

__all__ = ["write_assets"]


def write_assets(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the files that the runtime reads besides the graphs.

    Args:
        checkpoint: The loaded checkpoint.
        folder: The bundle's folder.

    Raises:
        DataError: The tokenizer has no fast form (`tokenizer.json`), or the processor no files or no chat template,
            or its settings hold NaN or infinity.
    """
    processor = checkpoint.processor
    require_chat_template(processor, checkpoint.name)
    processor.tokenizer.save_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        raise DataError(
            f"{checkpoint.name} has no fast tokenizer; convert it so that tokenizer.json exists"
        )
    _compact(folder / "tokenizer.json")
    (folder / "chat_template.jinja").write_text(chat_template(processor) or "", encoding="utf-8")
    _write_json(folder / "processor_config.json", image_record(processor))
    checkpoint.model.generation_config.save_pretrained(folder)


def _compact(path: Path) -> None:
    """Rewrite a JSON file without its indentation, which is half of a tokenizer's bytes."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json_text(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _write_json(path: Path, record: object) -> None:
    try:
        text = json_text(record, indent=2, sort_keys=True)
    except NotFiniteError as error:
        raise DataError(
            f"the checkpoint's {path.name}: {error}; correct it in the checkpoint"
        ) from error
    path.write_text(text + "\n", encoding="utf-8")
