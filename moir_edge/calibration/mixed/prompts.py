"""Rows of data as batches of prompts for the graphs, and the tokens of the answers that belong to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moir_edge.data.rows import Row
from moir_edge.errors import DataError
from moir_edge.runtime.processor import EncodedPrompt, ModelInputs, Processor

__all__ = ["PromptBatch", "answer_ids", "prompt_batches"]


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Prompts of several rows, padded on the left.

    Attributes:
        rows: The rows.
        inputs: As the runtime's processor prepares them.
    """

    rows: tuple[Row, ...]
    inputs: ModelInputs

    @property
    def width(self) -> int:
        """Tokens of the longest prompt."""
        return int(self.inputs.input_ids.shape[1])


def prompt_batches(rows: Sequence[Row], processor: Processor, size: int) -> Iterator[PromptBatch]:
    """Yield the rows in batches of `size`, in order, each prepared when it is asked for.

    Raises:
        DataError: A row cannot be used.
    """
    for start in range(0, len(rows), size):
        own = tuple(rows[start : start + size])
        turns = [row.conversation for row in own]
        yield PromptBatch(rows=own, inputs=processor(turns, [row.images for row in own]))


def answer_ids(row: Row, prompt: EncodedPrompt, processor: Processor) -> tuple[int, ...]:
    """Return the tokens of the answer that a row carries, as the chat template writes it, the end token included.

    Empty where the row has no answer, or the template does not write one behind the prompt.

    Args:
        row: The row.
        prompt: The row's prompt.
        processor: Holds template and tokenizer.
    """
    if not row.target:
        return ()
    answer = {"role": "assistant", "content": [{"type": "text", "text": row.target}]}
    try:
        whole = processor.chat_template.render(
            [*row.conversation, answer], add_generation_prompt=False
        )
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
