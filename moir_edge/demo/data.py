"""The demo data set: deterministic rows of three tasks, generated on the fly, and the JSON-lines form of them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from moir_edge.arguments import given_path, integer, strings, text
from moir_edge.checked import a, a_count, checked, lazily, required
from moir_edge.demo.questions import CAPTION_PROMPTS, ask, captions, describe_part
from moir_edge.demo.scenes import Scene, related_scene, render, sample_scene
from moir_edge.demo.statements import describe_side, state
from moir_edge.demo.theme import DIGITS, Theme
from moir_edge.errors import DataError, closest
from moir_edge.finite import json_text
from moir_edge.whole_files import whole_file

__all__ = ["CONTEXT_PROBABILITY", "TASKS", "DemoRow", "demo_rows", "write_jsonl"]

TASKS = ("vqa", "statement", "caption")
CONTEXT_PROBABILITY = 0.5
_RENDER_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class DemoRow:
    """One row of the demo data.

    Attributes:
        id: Unique name, which says task, split, seed and index.
        task: `vqa`, `statement` or `caption`.
        images: RGB images of 96 × 96 px: two for a statement (left, right), else one.
        prompt: The question, the statement or the request.
        context: A true sentence about a part of the scene, or None; it goes in front of the prompt.
        answers: Accepted answers, the canonical one first.
        scenes: What the images show, from which everything else was derived.
    """

    id: str
    task: str
    images: tuple[Image.Image, ...]
    prompt: str
    context: str | None
    answers: tuple[str, ...]
    scenes: tuple[Scene, ...]


@dataclass(frozen=True, kw_only=True)
class _Draft:
    id: str
    task: str
    scenes: tuple[Scene, ...]
    prompt: str
    context: str | None
    answers: tuple[str, ...]


def _draft(split: str, seed: int, index: int, task: str, theme: Theme) -> _Draft:
    name = f"{task}-{split}-{seed}-{index:06d}"
    rng = random.Random(name)
    first = sample_scene(rng, split, theme=theme)
    scenes: tuple[Scene, ...] = (first,)
    with_context = rng.random() < CONTEXT_PROBABILITY
    if task == "vqa":
        _, prompt, answer, item = ask(first, rng)
        answers: tuple[str, ...] = (answer,)
        context = describe_part(first, rng, item)
    elif task == "statement":
        pair = (first, related_scene(rng, split, first))
        truth = rng.random() < 0.5
        _, prompt = state(pair, truth, rng)
        scenes, answers = pair, ("true" if truth else "false",)
        context = describe_side(pair, rng)
    else:
        prompt, answers = rng.choice(CAPTION_PROMPTS), captions(first)
        context = describe_part(first, rng)
    return _Draft(
        id=name,
        task=task,
        scenes=scenes,
        prompt=prompt,
        context=context if with_context else None,
        answers=answers,
    )


def _render_chunk(drafts: list[_Draft]) -> list[DemoRow]:
    pixels = iter(render([scene for draft in drafts for scene in draft.scenes]))
    rows = []
    for draft in drafts:
        images = tuple(Image.fromarray(next(pixels)) for _ in draft.scenes)
        rows.append(
            DemoRow(
                id=draft.id,
                task=draft.task,
                images=images,
                prompt=draft.prompt,
                context=draft.context,
                answers=draft.answers,
                scenes=draft.scenes,
            )
        )
    return rows


@checked(split=required(text), count=a_count, seed=required(integer), tasks=strings, theme=a(Theme))
def demo_rows(
    split: str,
    *,
    count: int,
    seed: int = 0,
    tasks: tuple[str, ...] = TASKS,
    theme: Theme = DIGITS,
) -> list[DemoRow]:
    """Generate rows; row i has task `tasks[i % len(tasks)]` and depends on (split, seed, i, task, theme) only.

    Args:
        split: `train`, `val` or `test`; they share no picture.
        count: Number of rows.
        seed: Another seed gives other rows.
        tasks: Tasks to go through in turn.
        theme: What the pictures are.

    Raises:
        DataError: The split or a task is unknown, or there is no task.
        EnvironmentProblem: scikit-learn is not installed.
    """
    if not tasks:
        raise DataError(f"no task given: name at least one of {', '.join(TASKS)}")
    for task in tasks:
        if task not in TASKS:
            raise DataError(f"unknown task {task!r}: {closest(task, TASKS)}")
    rows: list[DemoRow] = []
    for start in range(0, count, _RENDER_CHUNK):
        chunk = range(start, min(start + _RENDER_CHUNK, count))
        rows += _render_chunk([_draft(split, seed, i, tasks[i % len(tasks)], theme) for i in chunk])
    return rows


@checked(rows=lazily(a(DemoRow)), folder=given_path)
def write_jsonl(rows: Iterable[DemoRow], folder: str | Path) -> Path:
    """Write rows as `data.jsonl` with PNG images beside it (paths relative to the folder).

    The images come first: the file that names them appears whole or not at all.

    Returns:
        The path of `data.jsonl`.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    target = folder / "data.jsonl"
    with whole_file(target) as lines:
        for row in rows:
            names = []
            for index, image in enumerate(row.images):
                names.append(f"images/{row.id}-{index}.png")
                image.save(folder / names[-1])
            record: dict[str, Any] = {"id": row.id, "task": row.task}
            record |= {"image": names[0]} if len(names) == 1 else {"images": names}
            record["prompt"] = row.prompt
            if row.context is not None:
                record["context"] = row.context
            record["answers"] = list(row.answers)
            lines.write(f"{json_text(record, ensure_ascii=False)}\n".encode())
    return target
