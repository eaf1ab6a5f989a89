"""Write a model as a checkpoint, beside the tokenizer and processor files of the checkpoint that it came from."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

from moir_edge.arguments import given_path
from moir_edge.checked import a_model, checked
from moir_edge.weights.whole import quiet_transformers

__all__ = ["write_checkpoint"]

# Tokenizer, processor and chat template, by every name under which transformers looks for them.
_BESIDE = (
    "*processor_config.json",
    "chat_template.*",
    "additional_chat_templates/*.jinja",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
)


@checked(model=a_model, source=given_path, folder=given_path)
def write_checkpoint(model: Any, source: Path, folder: Path) -> None:
    """Write weights and configs of a model, and copy the other files of its checkpoint byte for byte.

    Copied and not written anew, they stay what a user of the first checkpoint knows: settings of a video
    processor included, which cannot be built without torchvision.

    Args:
        model: A Hugging Face model, with a router or without.
        source: The folder of the checkpoint that it was loaded from.
        folder: The new checkpoint's folder, which exists.
    """
    with quiet_transformers():
        model.save_pretrained(folder)
    _open_weights(folder)
    for pattern in _BESIDE:
        for path in sorted(source.glob(pattern)):
            target = folder / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)


def _open_weights(folder: Path) -> None:
    """Give weights the permissions of the config: safetensors 0.8 hides its files from all but their owner."""
    mode = stat.S_IMODE((folder / "config.json").stat().st_mode)
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)
