"""Load a checkpoint from a folder or a hub id: model, router, tokenizer and processor, whole or refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from moir_edge.arguments import folder_or_id, switch
from moir_edge.bundle import SourceEntry
from moir_edge.checked import checked
from moir_edge.checkpoint.exportable import check_config, check_processor
from moir_edge.checkpoint.padding import end_ids, padding_id, padding_note
from moir_edge.checkpoint.processor import load_processor, load_tokenizer
from moir_edge.checkpoint.unregistered import check_registered
from moir_edge.models import Architecture, get_architecture
from moir_edge.router import hooks_removed, load_retrofitted
from moir_edge.runtime.prompt_bound import PromptBound
from moir_edge.weights.classes import (
    check_known,
    generative_class,
    load_config,
)
from moir_edge.weights.files import check_record, check_weights, weight_files
from moir_edge.weights.mapped import MappedFiles
from moir_edge.weights.source import resolve_checkpoint, weights_sha256
from moir_edge.weights.types import stored_dtype, widen_buffers
from moir_edge.weights.whole import load_whole

__all__ = ["Checkpoint", "load_checkpoint"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        name: Hub id, or the name of the folder.
        folder: Where its files lie.
        config: The Hugging Face config.
        model: The Hugging Face model in eval mode, with its router if it has one; in float32, unless it was loaded with
            its weights left in their files.
        tokenizer: The Hugging Face tokenizer.
        source: The manifest's entry.
        files: Where the weights are mapped, if they were left in their files.
    """

    name: str
    folder: Path
    config: Any
    model: Any
    tokenizer: Any
    source: SourceEntry
    files: MappedFiles = field(default_factory=MappedFiles)

    @property
    def architecture(self) -> Architecture:
        """Facts of the checkpoint's `model_type`.

        Raises:
            UnsupportedError: moir-edge does not export this type.
        """
        return get_architecture(self.config.model_type)

    @cached_property
    def processor(self) -> Any:
        """The Hugging Face processor, whose padding token has a row in the embedding table.

        Raises:
            DataError: Its files are missing or damaged.
        """
        processor = load_processor(self.folder, self.config)
        processor.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(self.pad_id)
        return processor

    @cached_property
    def prompt_bound(self) -> PromptBound | None:
        """The characters that the model's context can hold; None where its config or its tokenizer does not say."""
        context = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        backend = getattr(self.processor.tokenizer, "backend_tokenizer", None)
        if backend is None or not isinstance(context, int) or context < 2:
            return None
        return PromptBound(backend, context)

    @property
    def pad_id(self) -> int:
        """The id that fills short rows of a batch; it has a row in the embedding table."""
        return padding_id(self.model, self.tokenizer)

    @property
    def notes(self) -> tuple[str, ...]:
        """Settings of the checkpoint that were replaced, one sentence each."""
        note = padding_note(self.model, self.tokenizer)
        return (note,) if note else ()

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end an answer.

        Raises:
            DataError: No file names one.
        """
        return end_ids(self.model, self.tokenizer)

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
        with hooks_removed(self.model):
            yield


@checked(checkpoint=folder_or_id, exported=switch, mapped=switch)
def load_checkpoint(
    checkpoint: str | Path, *, exported: bool = True, mapped: bool = False
) -> Checkpoint:
    """Load model and tokenizer on the CPU, in float32 unless `mapped`.

    Args:
        checkpoint: Folder or hub id.
        exported: Also hold it to what the exporter can do; False takes any vision-language model of transformers.
        mapped: Leave the weights in their files and in their type, bfloat16 or float16, as the exporter takes them: they cost
            memory where they are read only. They may not be changed. Files of several types are read into float32.

    Raises:
        DataError: Files or weights are missing, damaged, not finite, or do not fit each other.
        UnsupportedError: Its type, tower, rotary embedding or quantization is not one that moir-edge handles.
    """
    folder = resolve_checkpoint(checkpoint)
    name = folder.resolve().name if Path(checkpoint).is_dir() else str(checkpoint)
    # What costs nothing comes first, so that nothing is refused after the weights have been read.
    record = check_record(folder)
    check_known(folder, record)
    config = load_config(folder)
    cls = generative_class(config, folder)
    if exported:
        check_registered(folder, config)
    check_weights(folder)
    tokenizer = load_tokenizer(folder)
    if exported:
        check_config(name, config)
        check_processor(folder, config)
    model, files = _load_model(cls, folder, config, mapped)
    return Checkpoint(
        name=name,
        folder=folder,
        config=model.config,
        model=model,
        tokenizer=tokenizer,
        source=SourceEntry(
            name=name, sha256=weights_sha256(folder), architecture=type(model).__name__
        ),
        files=files,
    )


def _load_model(cls: Any, folder: Path, config: Any, mapped: bool) -> tuple[Any, MappedFiles]:
    routed = getattr(config, "moir_router", None) is not None
    dtype = stored_dtype(folder) if mapped else torch.float32
    if routed:
        model = load_retrofitted(folder, dtype=dtype, mapped=mapped)
    else:
        model = load_whole(cls, folder, config=config, dtype=dtype)
    if not mapped:
        return model, MappedFiles()
    widen_buffers(cls, model)
    files = MappedFiles(weight_files(folder), model.parameters())
    for parameter in model.parameters():
        files.give_back(parameter)
    return model, files
