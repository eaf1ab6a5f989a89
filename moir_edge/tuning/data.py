"""Training data: rows with an answer, and batches in which only the answer carries labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from moir_edge.data.degradations import CLEAN
from moir_edge.data.pictures import row_images
from moir_edge.data.rows import Row, check_prompts, first_refused
from moir_edge.errors import DataError
from moir_edge.runtime.prompt_bound import PromptBound

__all__ = ["AnswerBatches", "RowSet", "TrainingRow", "answered_rows", "as_they_are"]

IGNORED = -100
# PaliGemma sees tokens of type 0 from both sides, so that a prompt would see its answer; other families have 0 for text.
_ANSWER_TYPE = {"PaliGemmaProcessor": 1}


def answered_rows(rows: Sequence[Row], source: str) -> list[Row]:
    """Return the rows, all of which must have an answer to learn, their `target`.

    Args:
        rows: Rows of one file.
        source: Its name, for the message.

    Raises:
        DataError: A row has none.
    """
    bare = [row for row in rows if not (row.target or "").strip()]
    if bare:
        raise DataError(
            f"{bare[0].place}: this row has no answer, like {len(bare)} of the {len(rows)} rows of {source}; "
            'tuning needs "answers": ["..."] in every row'
        )
    return list(rows)


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """A row of a run.

    Attributes:
        row: As the model sees it.
        original: As it stands in the data, before it was degraded.
        condition: `clean`, or the label of its degradation.
    """

    row: Row
    original: Row
    condition: str = CLEAN

    @property
    def is_clean(self) -> bool:
        """Whether the model sees the row as it stands in the data."""
        return self.condition == CLEAN


def as_they_are(rows: Sequence[Row]) -> list[TrainingRow]:
    """Return rows that are all clean."""
    return [TrainingRow(row=row, original=row) for row in rows]


class RowSet(Dataset[TrainingRow]):
    """Rows as torch's loaders take them.

    Args:
        rows: The rows, in order.
    """

    def __init__(self, rows: Sequence[TrainingRow]) -> None:
        self._rows = list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TrainingRow:
        return self._rows[index]


class AnswerBatches:
    """Turns rows into model inputs: prompts as at inference, padded on the left, then the answers, padded on the right.

    The answer's tokens are what the checkpoint's chat template writes after the prompt, up to the end token. They
    alone carry labels, so that the router takes none of them for a source or a target.

    Args:
        processor: The checkpoint's processor, with a chat template.
        end_ids: Ids that end an answer.
        bound: Characters of a prompt at most.
    """

    def __init__(
        self, processor: Any, end_ids: frozenset[int], bound: PromptBound | None = None
    ) -> None:
        self._processor = processor
        self._bound = bound
        self._end_ids = end_ids

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Return the batch: `input_ids`, `attention_mask`, `labels` (batch, sequence) and what the processor adds."""
        check_prompts(rows, self._bound)
        try:
            encoded = self._encoded(rows)
        except (ValueError, IndexError) as error:  # as for a prompt that holds an image token
            raise first_refused(rows, self._encoded, error) from error
        answers = [self.answer_ids(row) for row in rows]
        width = max(map(len, answers))
        shape = encoded["input_ids"].shape
        pad_id = self._processor.tokenizer.pad_token_id or 0
        tails = {
            "input_ids": _filled(answers, width, pad_id),
            "attention_mask": _filled([[1] * len(ids) for ids in answers], width, 0),
        }
        for name, value in encoded.items():
            if value.shape == shape:
                fill = _ANSWER_TYPE.get(type(self._processor).__name__, 0)
                tail = tails.get(name, torch.full((len(rows), width), fill))
                encoded[name] = torch.cat([value, tail.to(value.dtype)], dim=1)
        unlabelled = torch.full(shape, IGNORED)
        encoded["labels"] = torch.cat([unlabelled, _filled(answers, width, IGNORED)], dim=1)
        return encoded

    def _encoded(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        return dict(
            self._processor.apply_chat_template(
                [_prompt(row) for row in rows],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True, "padding_side": "left"},
            )
        )

    def answer_ids(self, row: Row) -> list[int]:
        """Return the token ids of the answer that a row teaches, the end token included.

        Raises:
            DataError: The chat template does not put the answer behind the prompt.
        """
        turns: list[dict[str, Any]] = [
            {
                "role": "user",
                "content": [*({"type": "image"} for _ in row.images), _text(row.text)],
            },
            {"role": "assistant", "content": [_text(row.target or "")]},
        ]
        prompt = self._template_ids(turns[:1], add_generation_prompt=True)
        whole = self._template_ids(turns, add_generation_prompt=False)
        if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
            raise DataError(
                f"{row.place}: the checkpoint's chat template does not write an answer after the prompt that it writes "
                "for generation; give the checkpoint a template that does"
            )
        answer = whole[len(prompt) :]
        end = next((at for at, token in enumerate(answer) if token in self._end_ids), None)
        return [*answer, min(self._end_ids)] if end is None else answer[: end + 1]

    def _template_ids(
        self, turns: list[dict[str, Any]], *, add_generation_prompt: bool
    ) -> list[int]:
        text = self._processor.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        ids: list[int] = self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _prompt(row: Row) -> list[dict[str, Any]]:
    images = [{"type": "image", "image": image} for image in row_images(row)]
    return [{"role": "user", "content": [*images, _text(row.text)]}]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _filled(rows: Sequence[Sequence[int]], width: int, fill: int) -> Tensor:
    """Pad rows on the right: (batch, width) int64."""
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.int64)
