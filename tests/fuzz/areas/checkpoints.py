"""Checkpoints: weights, settings, tokenizer and processor of a folder in Hugging Face's layout, opened as `export` does."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.area import Area, Case, Strategy, register
from tests.fuzz.folders import link_copy, rewrite
from tests.fuzz.mutate.json_text import alter_json
from tests.fuzz.mutate.raw import alter_bytes, replace_file

_JSON = (
    "config.json",
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "generation_config.json",
    "tokenizer.json",
)


@register
class Checkpoints(Area):
    """A folder of someone else, opened with its processor and its router."""

    name = "checkpoints"
    share = 500
    sliced = 0
    needs = ("checkpoint",)

    def warm(self) -> None:
        # Arrow, which the imports bring, has an allocator that starts a thread.
        os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
        import torch

        torch.set_num_threads(1)
        self.attempt(self.seeds / "checkpoint")

    def strategies(self) -> Sequence[Strategy]:
        return (self._json, self._header, self._bytes, self._json, self._odd_file, self._index)

    def attempt(self, payload: Any) -> None:
        from moir_edge.checkpoint import load_checkpoint, require_chat_template

        loaded = load_checkpoint(payload)
        require_chat_template(loaded.processor, payload)
        _ = (loaded.notes, loaded.end_ids)

    def _copy(self, folder: Path) -> Path:
        return link_copy(self.seeds / "checkpoint", folder / "checkpoint")

    def _json(self, rng: random.Random, folder: Path) -> Case:
        path = self._copy(folder) / rng.choice(_JSON)
        content, how = alter_json(rng, path.read_text())
        rewrite(path, content)
        return Case(f"{path.name}: {how}", path.parent)

    def _header(self, rng: random.Random, folder: Path) -> Case:
        """Alter what the file of weights says of its tensors."""
        path = self._copy(folder) / "model.safetensors"
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        text, how = alter_json(rng, content[8 : 8 + length].decode())
        header = text.encode("utf-8", "surrogatepass")
        size = len(header)
        if rng.random() < 0.15:
            size = rng.choice((0, 1, length - 1, length + 1, 10**8 + 1, 2**40, 2**63, 2**64 - 1))
            how = f"{how}; length {size}"
        rewrite(path, struct.pack("<Q", size) + header + content[8 + length :])
        return Case(f"weights: {how}", path.parent)

    def _bytes(self, rng: random.Random, folder: Path) -> Case:
        copy = self._copy(folder)
        path = rng.choice(sorted(copy.iterdir()))
        content, how = alter_bytes(rng, path.read_bytes())
        rewrite(path, content)
        return Case(f"{path.name}: {how}", copy)

    def _odd_file(self, rng: random.Random, folder: Path) -> Case:
        copy = self._copy(folder)
        path = rng.choice(sorted(copy.iterdir()))
        return Case(f"{path.name}: {replace_file(rng, path)}", copy)

    def _index(self, rng: random.Random, folder: Path) -> Case:
        """Name the file of weights in an index, as checkpoints of several files do."""
        copy = self._copy(folder)
        single = "model-00001-of-00001.safetensors"
        (copy / "model.safetensors").rename(copy / single)
        (folder / "outside.safetensors").write_bytes((copy / single).read_bytes())
        with (copy / single).open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            names = [name for name in json.loads(stream.read(length)) if name != "__metadata__"]
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, single)}
        how = "whole"
        text = json.dumps(index)
        if rng.random() < 0.8:
            text, how = alter_json(rng, text)
        if rng.random() < 0.3:
            place = rng.choice(
                ("../outside.safetensors", "/dev/zero", "", ".", "config.json", "x.bin")
            )
            text, how = text.replace(single, place), f"{how}; {place}"
        (copy / "model.safetensors.index.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        return Case(f"index: {how}", copy)
