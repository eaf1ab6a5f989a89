"""Accuracy of a checkpoint on demo rows, through its own processor and `generate`."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moir_edge.demo.data import TASKS, DemoRow
from moir_edge.errors import UnsupportedError

if TYPE_CHECKING:
    from moir_edge.data.degradations import Degradation

__all__ = ["CIDER", "answer_rows", "chat_text", "degraded", "task_accuracy"]

#: Key of the captions' CIDEr-D score, in [0, 10].
CIDER = "caption CIDEr-D"


def chat_text(processor: Any, row: DemoRow) -> str:
    """Format a row with the chat template: images first, then the context and the prompt."""
    text = row.prompt if row.context is None else f"{row.context} {row.prompt}"
    content: list[dict[str, str]] = [{"type": "image"} for _ in row.images]
    content.append({"type": "text", "text": text})
    result: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    return result


def answer_rows(
    model: Any,
    processor: Any,
    rows: Sequence[DemoRow],
    *,
    batch: int = 32,
    max_new_tokens: int = 64,
) -> list[str]:
    """Generate greedily for every row; rows with one and two images go in separate batches."""
    import torch

    texts = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].images), rows[i].task))
    for images in sorted({len(row.images) for row in rows}):
        group = [i for i in order if len(rows[i].images) == images]
        for start in range(0, len(group), batch):
            part = group[start : start + batch]
            inputs = processor(
                text=[chat_text(processor, rows[i]) for i in part],
                images=[list(rows[i].images) for i in part],
                padding=True,
                return_tensors="pt",
            )
            with torch.no_grad():
                out = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
            new = out[:, inputs["input_ids"].shape[1] :]
            for i, text in zip(
                part, processor.batch_decode(new, skip_special_tokens=True), strict=True
            ):
                texts[i] = text.strip()
    return texts


def task_accuracy(rows: Sequence[DemoRow], texts: Sequence[str]) -> dict[str, float]:
    """Share of rows per task whose text is one of the accepted answers."""
    result = {}
    for task in TASKS:
        hits = [
            text in row.answers for row, text in zip(rows, texts, strict=True) if row.task == task
        ]
        if hits:
            result[task] = sum(hits) / len(hits)
    return result


def degraded(rows: Sequence[DemoRow], degradation: str) -> list[DemoRow]:
    """Degrade every row, seeded by its id.

    Args:
        rows: The rows.
        degradation: As `moir-edge diagnose` reads it, such as ``"blur=3.5px"``.

    Raises:
        UnsupportedError: There is no such degradation, or it takes a part of the row away.
        DataError: Its strength cannot be used.
    """
    from moir_edge.data.degradations import parse_degradation

    wanted = parse_degradation(degradation)
    if wanted.kind.row_effect is not None:
        raise UnsupportedError(
            f"got degradation {degradation!r}, expected one that changes pixels or words: rows without an image or context "
            "have another prompt; use `moir-edge diagnose`"
        )
    return [_degraded(row, wanted) for row in rows]


def _degraded(row: DemoRow, wanted: Degradation) -> DemoRow:
    kind = wanted.kind
    if kind.image_effect is not None:
        noise = np.random.default_rng(list(row.id.encode()))
        images = (
            kind.image_effect(image, wanted.strength(min(image.size)), noise)
            for image in row.images
        )
        row = dataclasses.replace(row, images=tuple(images))
    if kind.text_effect is not None:
        draw, strength = random.Random(row.id), wanted.strength()
        context = row.context and kind.text_effect(row.context, strength, draw)
        prompt = kind.text_effect(row.prompt, strength, draw)
        row = dataclasses.replace(row, context=context or None, prompt=prompt)
    return row
