"""Evaluation data: JSON lines of images, prompt and accepted answers, checked line by line on reading."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moir_edge.arguments import given_path, integer
from moir_edge.data.json_lines import json_object, numbered_lines
from moir_edge.errors import DataError, closest

if TYPE_CHECKING:
    from moir_edge.runtime.prompt_bound import PromptBound

__all__ = [
    "HUMAN_ANSWERS",
    "TASKS",
    "Row",
    "check_prompts",
    "first_refused",
    "iter_rows",
    "naming",
    "parse_row",
    "read_rows",
    "row_limit",
    "scan_rows",
]

TASKS = ("vqa", "statement", "caption")
DEFAULT_TASK = "vqa"

HUMAN_ANSWERS = 10
"""Answers per question in VQA-v2; with fewer, an answer list is read as alternatives."""
_KEYS = ("id", "task", "image", "images", "prompt", "context", "answers", "group")
_MISSPELT = {
    "answer": "answers",
    "label": "answers",
    "question": "prompt",
    "text": "prompt",
    "contexts": "context",
    "prompts": "prompt",
    "tasks": "task",
    "img": "image",
    "image_path": "image",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question to a vision-language model.

    Attributes:
        id: Name of the row in reports; the line number (from 1) where the file gives none.
        task: `vqa` (question, short answer), `statement` (true or false of the images) or `caption`.
        images: Image files in the order in which the model sees them, at least one.
        prompt: The question, statement or request.
        context: A sentence about the images that goes in front of the prompt, or None.
        answers: Accepted answers or reference captions; empty where the row carries none.
        group: Rows with the same group share a sentence (statement consistency), or None.
        where: Where the row stands, as `file:line`; empty where it was not read from data.
    """

    id: str
    task: str
    images: tuple[Path, ...]
    prompt: str
    context: str | None = None
    answers: tuple[str, ...] = ()
    group: str | None = None
    where: str = field(default="", compare=False)

    @property
    def place(self) -> str:
        """Where the row stands, for messages; its id where it was not read from data."""
        return self.where or f"row {self.id}"

    @property
    def text(self) -> str:
        """The user's words as the model gets them, after the images."""
        return f"{self.context} {self.prompt}" if self.context else self.prompt

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The row as one user turn, as the runtime's chat template takes it."""
        from moir_edge.runtime.chat import user_message

        return user_message(self.prompt, images=len(self.images), context=self.context)

    @property
    def target(self) -> str | None:
        """The answer that tuning teaches; None where the row carries none.

        Ten or more answers to a question are votes: the most frequent one as written, of equals the one that
        stands first. Otherwise the first answer.
        """
        if self.task == "vqa" and len(self.answers) >= HUMAN_ANSWERS:
            return Counter(self.answers).most_common(1)[0][0]
        return self.answers[0] if self.answers else None


def read_rows(path: str | Path, *, limit: int | None = None) -> list[Row]:
    """Read a data file.

    Args:
        path: JSON lines of ``{"id"?, "task"?, "image" | "images", "prompt", "context"?, "answers"?, "group"?}``.
            Image paths are relative to the folder of the file. Blank lines are skipped. Keys besides these
            are ignored, unless one looks like a misspelling of a known key that the row lacks.
        limit: Read this many rows at most.

    Raises:
        DataError: The file is missing or empty, or a line cannot be used; the message starts with `file:line`.
    """
    rows = list(islice(iter_rows(given_path("path", path)), row_limit(limit)))
    if not rows:
        raise DataError(f"{path} holds no rows; write one JSON object per line")
    return rows


def row_limit(limit: int | None) -> int | None:
    """Return a limit of rows as a Python integer, None as None.

    Raises:
        DataError: It is not a whole number of at least 1.
    """
    number = integer("`limit`", limit)
    if number is not None and number < 1:
        raise DataError(f"`limit` is {number}; it must be at least 1")
    return number if number is None else min(number, sys.maxsize)


def iter_rows(source: Path) -> Iterator[Row]:
    """Give the rows of a data file one by one; see `read_rows`."""
    for _, row in scan_rows(source):
        if isinstance(row, DataError):
            raise row
        yield row


def scan_rows(path: str | Path) -> Iterator[tuple[str, Row | DataError]]:
    """Yield every line of a data file that is not blank, one at a time, with its place ``file:line``.

    A line that cannot be used comes as the error that says why, so that the caller decides what it costs.

    Args:
        path: See `read_rows`.

    Raises:
        DataError: The file itself cannot be read.
    """
    source = Path(path)
    for number, line in numbered_lines(source):
        where = f"{source}:{number}"
        try:
            yield where, parse_row(json_object(line, where), where, source.parent, str(number))
        except DataError as error:
            yield where, error


def parse_row(record: Mapping[str, Any], where: str, folder: Path, name: str) -> Row:
    """Check one decoded line and turn it into a `Row`.

    Args:
        record: The decoded JSON object.
        where: `file:line`, the start of every error message.
        folder: What image paths are relative to.
        name: The row's id where the record has none.

    Raises:
        DataError: A key is missing, misspelt or of the wrong type, or an image file does not exist.
    """
    _refuse_misspelt(record, where)
    return Row(
        id=_string(record, "id", where) or name,
        task=_task(record, where),
        images=_images(record, where, folder),
        prompt=_prompt(record, where),
        context=_string(record, "context", where),
        answers=_strings(record, "answers", where),
        group=_string(record, "group", where),
        where=where,
    )


@contextmanager
def naming(row: Row) -> Iterator[None]:
    """Start the message of a `DataError` with the row's place.

    Raises:
        DataError: One was raised inside.
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"{row.place}: {error}") from error


def check_prompts(rows: Sequence[Row], bound: PromptBound | None) -> None:
    """Refuse rows whose prompts have more characters than a model's context can hold, before they are tokenized.

    Args:
        rows: The rows.
        bound: Of the model; None where it names no context length.

    Raises:
        DataError: The first such row, with its place.
    """
    if bound is None:
        return
    for row in rows:
        with naming(row):
            bound.check(len(row.text.strip()))


def first_refused(
    rows: Sequence[Row], encode: Callable[[Sequence[Row]], Any], error: Exception
) -> DataError:
    """Return the error of the first row of a batch that cannot be encoded on its own, with the row's place.

    Args:
        rows: The batch.
        encode: Turns rows into model inputs.
        error: What the batch raised; it is returned as it is where every row can be encoded.
    """
    for row in rows:
        try:
            encode([row])
        except type(error) as own:
            return DataError(f"{row.place}: {' '.join(str(own).split())}")
    return DataError(str(error))


def _refuse_misspelt(record: Mapping[str, Any], where: str) -> None:
    for key in record:
        meant = _MISSPELT.get(key)
        if meant is not None and meant not in record:
            raise DataError(f"{where}: unknown key {key!r}, did you mean {meant!r}?")


def _task(record: Mapping[str, Any], where: str) -> str:
    task = _string(record, "task", where) or DEFAULT_TASK
    if task not in TASKS:
        raise DataError(f"{where}: unknown task {task!r}; {closest(task, TASKS)}")
    return task


def _images(record: Mapping[str, Any], where: str, folder: Path) -> tuple[Path, ...]:
    if "image" in record and "images" in record:
        raise DataError(f"{where}: both 'image' and 'images' are given; keep one of them")
    if "images" in record:
        names = _strings(record, "images", where)
    else:
        name = _string(record, "image", where)
        names = (name,) if name else ()
    if not names:
        raise DataError(f"{where}: no image; give 'image' (one path) or 'images' (a list of paths)")
    for name in names:
        if not os.path.isfile(folder / name):
            what = "is a folder" if os.path.isdir(folder / name) else "does not exist"
            raise DataError(
                f"{where}: image {folder / name} {what}; give the path of an image file"
            )
    return tuple(folder / name for name in names)


def _prompt(record: Mapping[str, Any], where: str) -> str:
    if "prompt" not in record:
        raise DataError(f"{where}: key 'prompt' is missing; the keys are {', '.join(_KEYS)}")
    prompt = _string(record, "prompt", where)
    if prompt is None or not prompt.strip():
        raise DataError(f"{where}: 'prompt' is empty; write the question or request")
    return prompt


def _string(record: Mapping[str, Any], key: str, where: str) -> str | None:
    value = record.get(key)
    if value is None:
        return None
    # ids and groups are often plain numbers in published data sets
    if key in ("id", "group") and isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: {key!r} must be a string, got {type(value).__name__}")
    return _unicode(value, key, where)


def _strings(record: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = record.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(
            f"{where}: {key!r} must be a list of strings, got {json.dumps(value)[:60]}; "
            f'write it as ["...", "..."]'
        )
    return tuple(_unicode(item, key, where) for item in value)


def _unicode(text: str, key: str, where: str) -> str:
    r"""Refuse half of a surrogate pair, which JSON can write as ``\ud83d`` and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {key!r} holds half of a character ({text[error.start]!a} at position {error.start + 1}); "
            "write the data again as UTF-8"
        ) from error
    return text
