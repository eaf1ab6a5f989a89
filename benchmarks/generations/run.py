"""One checkpoint and its bundle answer the same cases; the tokens must be equal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.generations.cases import Case
from moir_edge.finite import json_text

__all__ = ["Outcome", "Twins"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of one case: tokens of transformers, of the bundle, and without the setting."""

    case: Case
    expected: tuple[int, ...]
    got: tuple[int, ...]
    plain: tuple[int, ...]

    @property
    def equal(self) -> bool:
        """Whether both sides gave the same tokens."""
        return self.expected == self.got

    @property
    def changed(self) -> bool:
        """Whether the setting changed the answer at all."""
        return self.expected != self.plain


class Twins:
    """A checkpoint in transformers, float32, beside its fp32 bundle in the runtime.

    Args:
        checkpoint: The checkpoint's folder.
        bundle: Its fp32 bundle, whose `generation_config.json` is rewritten for each case.
        pictures: Folder of the image files.
    """

    def __init__(self, checkpoint: Path, bundle: Path, pictures: Path) -> None:
        from moir_edge import load
        from moir_edge.checkpoint import load_checkpoint

        loaded = load_checkpoint(checkpoint, exported=True)
        self._processor: Any = loaded.processor
        self._model: Any = loaded.model
        self._bundle, self._pictures = bundle, pictures
        self._edge = load(bundle, threads=1)

    def run(self, cases: Iterable[Case]) -> list[Outcome]:
        """Answer every case on both sides."""
        outcomes = []
        plain: dict[Case, tuple[int, ...]] = {}
        for case in cases:
            bare = Case(
                setting="none", prompt=case.prompt, pictures=case.pictures, max_new_tokens=14
            )
            if bare not in plain:
                plain[bare] = self._reference(bare)
            outcomes.append(
                Outcome(
                    case=case,
                    expected=self._reference(case),
                    got=self._answer(case),
                    plain=plain[bare],
                )
            )
        return outcomes

    def _answer(self, case: Case) -> tuple[int, ...]:
        """Return the bundle's tokens, its generation config read from the file as `load` does."""
        from moir_edge.bundle.files import ModelFiles
        from moir_edge.runtime.generation_config import FILE_NAME, read_generation_config

        (self._bundle / FILE_NAME).write_text(json_text(case.config), encoding="utf-8")
        self._edge.generation_config = read_generation_config(ModelFiles(self._bundle))
        images = [self._pictures / name for name in case.pictures]
        done = self._edge.generate(case.prompt, images, max_new_tokens=case.max_new_tokens)
        return done.token_ids[0]

    def _reference(self, case: Case) -> tuple[int, ...]:
        """Return transformers' tokens, under the generation config as its own loader makes it."""
        import torch
        from PIL import Image, ImageOps
        from transformers import GenerationConfig

        self._model.generation_config = GenerationConfig.from_dict(case.config)
        images = [
            ImageOps.exif_transpose(Image.open(self._pictures / name, formats=["PNG", "JPEG"]))
            for name in case.pictures
        ]
        turn = [*({"type": "image"} for _ in images), {"type": "text", "text": case.prompt}]
        text = self._processor.apply_chat_template(
            [{"role": "user", "content": turn}], add_generation_prompt=True
        )
        inputs = self._processor(text=text, images=images or None, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        length = {} if case.max_new_tokens is None else {"max_new_tokens": case.max_new_tokens}
        with torch.inference_mode():
            ids = self._model.generate(
                **inputs, do_sample=False, tokenizer=self._processor.tokenizer, **length
            )
        return tuple(ids[0, inputs["input_ids"].shape[1] :].tolist())
