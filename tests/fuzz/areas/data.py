"""Data files: JSON lines, VQA-v2, NLVR2 and COCO captions, altered as JSON, as lines and as bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.area import Area, Case, Strategy, register
from tests.fuzz.mutate.json_text import alter_json
from tests.fuzz.mutate.raw import alter_bytes, replace_file

_JSONL = [
    {"id": 1, "image": "a.png", "prompt": "Which digit?", "answers": ["seven"], "group": "g"},
    {"image": "b.png", "prompt": "Describe it.", "task": "caption", "answers": ["a seven"], "context": "It is blurred."},
    {"images": ["a.png", "b.png"], "prompt": "Both are red.", "task": "statement", "answers": ["true"]},
]  # fmt: skip
_QUESTIONS = {
    "info": {"year": 2014}, "data_type": "mscoco", "data_subtype": "val2014",
    "questions": [{"image_id": 42, "question": "What is it?", "question_id": 42_000 + at} for at in range(3)],
}  # fmt: skip
_ANNOTATIONS = {
    "data_type": "mscoco", "data_subtype": "val2014",
    "annotations": [
        {
            "question_id": 42_000 + at, "image_id": 42, "question_type": "what", "answer_type": "other", "multiple_choice_answer": "net",
            "answers": [{"answer": word, "answer_confidence": "yes", "answer_id": 1} for word in ("net", "net", "a net")],
        }
        for at in range(3)
    ],
}  # fmt: skip
_CAPTIONS = {
    "images": [{"id": 42, "file_name": "COCO_val2014_000000000042.jpg"}, {"id": 43, "file_name": "a.png"}],
    "annotations": [{"image_id": 42, "id": 1, "caption": "A net."}, {"image_id": 43, "id": 2, "caption": "A ball."}],
}  # fmt: skip
_NLVR2 = [
    {"identifier": f"dev-850-0-{at}", "sentence": "Both are red.", "label": "True", "left_url": "", "synset": "x", "directory": 5}
    for at in range(2)
]  # fmt: skip
_PICTURES = (
    "a.png",
    "b.png",
    "COCO_val2014_000000000042.jpg",
    "dev-850-0-img0.png",
    "dev-850-0-img1.png",
)


@register
class Data(Area):
    """The files that `compare`, `tune` and calibration read rows from."""

    name = "data"
    share = 1500
    sliced = 50

    def warm(self) -> None:
        import moir_edge.data.formats  # noqa: F401  (what a case would import)

    def strategies(self) -> Sequence[Strategy]:
        return (
            self._lines,
            self._questions,
            self._answers,
            self._statements,
            self._captions,
            self._odd_file,
            self._options,
        )

    def attempt(self, payload: Any) -> None:
        from moir_edge.data.formats import read_dataset

        read_dataset(**payload)

    def _lines(self, rng: random.Random, folder: Path) -> Case:
        path, how = _altered_lines(rng, _pictures(folder) / "data.jsonl", _JSONL)
        return Case(f"jsonl: {how}", {"data": path})

    def _statements(self, rng: random.Random, folder: Path) -> Case:
        path, how = _altered_lines(rng, _pictures(folder) / "dev.json", _NLVR2)
        return Case(f"nlvr2: {how}", {"data": path, "format": "nlvr2", "images": folder})

    def _questions(self, rng: random.Random, folder: Path) -> Case:
        return self._vqa(rng, folder, alter_questions=True)

    def _answers(self, rng: random.Random, folder: Path) -> Case:
        return self._vqa(rng, folder, alter_questions=False)

    def _vqa(self, rng: random.Random, folder: Path, *, alter_questions: bool) -> Case:
        questions = _pictures(folder) / "questions.json"
        annotations = folder / "annotations.json"
        questions.write_text(json.dumps(_QUESTIONS))
        annotations.write_text(json.dumps(_ANNOTATIONS))
        path = questions if alter_questions else annotations
        how = _altered(rng, path)
        named = {
            "data": questions,
            "format": "vqa-v2",
            "annotations": annotations,
            "images": folder,
        }
        return Case(f"vqa-v2 {path.name}: {how}", named)

    def _captions(self, rng: random.Random, folder: Path) -> Case:
        path = _pictures(folder) / "captions.json"
        path.write_text(json.dumps(_CAPTIONS))
        how = _altered(rng, path)
        return Case(f"coco: {how}", {"data": path, "format": "coco-captions", "images": folder})

    def _odd_file(self, rng: random.Random, folder: Path) -> Case:
        path = _pictures(folder) / "data.jsonl"
        path.write_text("\n".join(map(json.dumps, _JSONL)))
        place = rng.choice((path, path, folder / "a.png"))
        return Case(f"{place.name}: {replace_file(rng, place)}", {"data": path})

    def _options(self, rng: random.Random, folder: Path) -> Case:
        path = _pictures(folder) / "data.jsonl"
        path.write_text("\n".join(map(json.dumps, _JSONL)))
        odd = (
            None,
            "",
            "x",
            "{text}",
            3,
            b"x",
            [],
            {},
            ["a"],
            {"a": "b"},
            Path("x"),
            "\0",
            "a" * 5000,
            True,
            -1,
            2.5,
            "vqa",
            "jsonl",
        )
        names = (
            "format",
            "annotations",
            "images",
            "limit",
            "prompt",
            "split",
            "subset",
            "columns",
            "task",
            "data",
        )
        named: dict[str, Any] = {"data": path}
        for name in rng.sample(names, rng.choice((1, 1, 2))):
            named[name] = rng.choice(odd)
        return Case(
            ascii({key: value for key, value in named.items() if value != path})[:120], named
        )


def _pictures(folder: Path) -> Path:
    """Put files in the places of pictures, which reading rows does not open."""
    for name in _PICTURES:
        (folder / name).write_bytes(b"x")
    return folder


def _altered(rng: random.Random, path: Path) -> str:
    text, how = alter_json(rng, path.read_text())
    raw = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        raw, more = alter_bytes(rng, raw)
        how = f"{how}; {more}"
    path.write_bytes(raw)
    return how


def _altered_lines(rng: random.Random, path: Path, records: Sequence[Any]) -> tuple[Path, str]:
    lines = [json.dumps(record) for record in records]
    at = rng.randrange(len(lines))
    lines[at], how = alter_json(rng, lines[at])
    ending = rng.choice(("\n", "\n", "\r\n", "\r", "\n\n", "\u2028", ""))
    raw = ending.join(lines).encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        raw, more = alter_bytes(rng, raw)
        how = f"{how}; {more}"
    path.write_bytes(raw)
    return path, f"line {at + 1}: {how}, joined by {ending!a}"
