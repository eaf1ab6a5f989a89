"""Batches of prompts for the graphs, and the tokens of the answers that belong to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.calibration.rows import CalibrationRow
from moir_edge.errors import DataError
from moir_edge.runtime.chat import user_message
from moir_edge.runtime.processor import Processor

__all__ = ["PromptBatch", "answer_ids", "prompt_batches"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Prompts of several rows, padded on the left.

    Attributes:
        rows: The rows.
        input_ids: (batch, sequence) int64.
        mask: (batch, sequence) int64, 0 at padding.
        tiles: (images, 3, height, width) float32, those of all rows in order; may have no rows.
    """

    rows: tuple[CalibrationRow, ...]
    input_ids: Array
    mask: Array
    tiles: Array


def prompt_batches(
    rows: Sequence[CalibrationRow], facts: ModelFacts, size: int
) -> Iterator[PromptBatch]:
    """Yield the rows in batches of `size`, in order."""
    for start in range(0, len(rows), size):
        yield _batch(tuple(rows[start : start + size]), facts)


def answer_ids(row: CalibrationRow, processor: Processor) -> tuple[int, ...]:
    """Return the tokens of the answer that a row carries, as the chat template writes it, the end token included.

    Empty where the row has no answer, or the template does not write one behind the prompt.
    """
    target = row.row.target
    if not target:
        return ()
    prompt = row.inputs.prompts[0]
    turns = user_message(row.row.prompt, images=len(row.row.images), context=row.row.context)
    turns.append({"role": "assistant", "content": [{"type": "text", "text": target}]})
    try:
        whole = processor.chat_template.render(turns, add_generation_prompt=False)
    except DataError:
        return ()
    if not whole.startswith(prompt.text):
        return ()
    before = _tokens(processor, prompt.expanded)
    ids = _tokens(processor, prompt.expanded + whole[len(prompt.text) :])
    if ids[: len(before)] != before or len(ids) == len(before):
        return ()
    return _until_end(ids[len(before) :], processor.facts.eos_token_ids)


def _tokens(processor: Processor, text: str) -> tuple[int, ...]:
    return processor.tokenizer.encode(text, add_special_tokens=False).ids


def _until_end(ids: Sequence[int], ends: Sequence[int]) -> tuple[int, ...]:
    for at, token in enumerate(ids):
        if token in ends:
            return tuple(ids[: at + 1])
    return (*ids, ends[0])


def _batch(rows: tuple[CalibrationRow, ...], facts: ModelFacts) -> PromptBatch:
    width = max(row.inputs.input_ids.shape[1] for row in rows)
    ids = np.full((len(rows), width), facts.pad_token_id, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for at, row in enumerate(rows):
        own = row.inputs.input_ids[0]
        ids[at, width - len(own) :] = own
        mask[at, width - len(own) :] = row.inputs.attention_mask[0]
    none = np.zeros((0, 3, facts.image_size, facts.image_size), np.float32)
    tiles = [row.inputs.pixel_values for row in rows if row.inputs.pixel_values is not None]
    return PromptBatch(rows=rows, input_ids=ids, mask=mask, tiles=np.concatenate([none, *tiles]))
