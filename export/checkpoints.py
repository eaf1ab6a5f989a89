"""Load a checkpoint from a folder or a hub id, and refuse what is no vision-language model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from moir_edge.bundle import SourceEntry
from moir_edge.bundle.reader import file_sha256
from moir_edge.errors import DataError, one_line
from moir_edge.models import Architecture, get_architecture

__all__ = ["Checkpoint", "load_checkpoint", "no_progress_bars", "resolve_checkpoint"]

_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        name: Hub id, or the name of the folder.
        folder: Where its files lie.
        config: The Hugging Face config.
        model: The Hugging Face model in float32 and eval mode, with its router if it has one.
        tokenizer: The Hugging Face tokenizer.
        architecture: The facts of its `model_type`.
        source: The manifest's entry.
    """

    name: str
    folder: Path
    config: Any
    model: Any
    tokenizer: Any
    architecture: Architecture
    source: SourceEntry

    @property
    def router(self) -> Any | None:
        """The router module, or None."""
        return getattr(self.model, "moir_router", None)

    @contextmanager
    def without_router(self) -> Iterator[None]:
        """Take the router's hooks off inside the block, so that they are not traced."""
        if self.router is None:
            yield
            return
        from moir_edge.router import hooks_removed

        with hooks_removed(self.model):
            yield


def resolve_checkpoint(checkpoint: str | Path) -> Path:
    """Return the folder of a checkpoint, fetching a hub id's files if need be.

    Raises:
        DataError: It is neither a folder with a config nor a reachable hub id.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise DataError(f"{folder} is no checkpoint: it has no config.json")
        return folder
    if folder.exists() or not _looks_like_hub_id(str(checkpoint)):
        raise DataError(
            f"{checkpoint} is no checkpoint folder; give a folder with config.json or a hub id"
        )
    return _snapshot(str(checkpoint))


def _looks_like_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= 2 and all(part and not part.startswith(".") for part in parts)


def _snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:
        raise DataError(
            f"{name} is neither a folder nor a hub checkpoint that can be fetched ({one_line(error)}); "
            "check the spelling and the network"
        ) from error


def load_checkpoint(checkpoint: str | Path) -> Checkpoint:
    """Load model and tokenizer in float32 on the CPU.

    Raises:
        DataError: The files are missing or damaged.
        UnsupportedError: Its `model_type` is not one that moir-edge exports.
    """
    from transformers import AutoConfig, AutoTokenizer

    folder = resolve_checkpoint(checkpoint)
    name = folder.resolve().name if Path(checkpoint).is_dir() else str(checkpoint)
    # The type is looked up before transformers sees the config, whose own message lists every class it has.
    architecture = get_architecture(_model_type(folder))
    try:
        with no_progress_bars():
            config = AutoConfig.from_pretrained(folder)
            model = _load_model(folder, config).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder} cannot be loaded: {one_line(error)}") from error
    return Checkpoint(
        name=name,
        folder=folder,
        config=model.config,
        model=model,
        tokenizer=tokenizer,
        architecture=architecture,
        source=SourceEntry(
            name=name, sha256=weights_sha256(folder), architecture=type(model).__name__
        ),
    )


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers' own bars off the terminal, where the command draws one."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _model_type(folder: Path) -> str:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(model_type, str):
        raise DataError(f"{path} names no model_type; save the model with save_pretrained")
    return model_type


def _load_model(folder: Path, config: Any) -> Any:
    if getattr(config, "moir_router", None) is not None:
        from moir_edge.router import load_retrofitted

        return load_retrofitted(folder, dtype=torch.float32)
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def weights_sha256(folder: Path) -> str:
    """Return one SHA-256 over the weight files of a checkpoint, in name order.

    Raises:
        DataError: There are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder} holds no *.safetensors file; save the weights as safetensors")
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}:{file_sha256(path)}\n".encode())
    return digest.hexdigest()
