"""Small files of exactly the shape in which VQA-v2, NLVR2 and COCO captions are published, every key in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

INFO = {
    "description": "This is v2.0 of the VQA dataset.",
    "url": "http://visualqa.org",
    "version": "2.0",
    "year": 2017,
    "contributor": "VQA Team",
    "date_created": "2017-04-26 17:07:13",
}
LICENSE = {
    "url": "http://creativecommons.org/licenses/by/4.0/",
    "name": "Creative Commons Attribution 4.0 International License",
}
VOTES = {
    262148000: ["down"] * 5 + ["at table", "skateboard", "down", "table", "down"],
    262148001: ["yes", "no", "yes", "no", "yes", "no", "yes", "no", "yes", "no"],
    393225000: ["2", "2", "4", "3", "3", "3", "5", "6", "7", "8"],
}
MOST = {262148000: "down", 262148001: "no", 393225000: "3"}
QUESTIONS = [
    {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
    {"image_id": 262148, "question": "Is anyone watching?", "question_id": 262148001},
    {"image_id": 393225, "question": "How many bowls are there?", "question_id": 393225000},
]


def write(path: Path, content: Any) -> Path:
    """Write JSON; of a list, one line per member."""
    lines = [json.dumps(one) for one in content] if isinstance(content, list) else None
    path.write_text(json.dumps(content) if lines is None else "\n".join(lines) + "\n")
    return path


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not decoded by the readers")
    return folder


def questions(split: str = "val2014") -> dict[str, Any]:
    return {
        "info": INFO,
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "license": LICENSE,
        "data_subtype": split,
        "questions": QUESTIONS,
    }


def annotations() -> dict[str, Any]:
    return {
        "info": INFO,
        "license": LICENSE,
        "data_subtype": "val2014",
        "data_type": "mscoco",
        "annotations": [
            {
                "question_type": "none of the above",
                "multiple_choice_answer": MOST[name],
                "answers": [
                    {"answer": vote, "answer_confidence": "yes", "answer_id": at}
                    for at, vote in enumerate(votes, start=1)
                ],
                "image_id": name // 1000,
                "answer_type": "other",
                "question_id": name,
            }
            for name, votes in VOTES.items()
        ],
    }


def statement(identifier: str, sentence: str, label: str, **more: Any) -> dict[str, Any]:
    return {
        "validation": {"77": label},
        "sentence": sentence,
        "left_url": "https://example.org/left.jpg",
        "writer": "103",
        "label": label,
        "right_url": "https://example.org/right.jpg",
        "synset": "beer bottle",
        "query": "some beer bottles2",
        "identifier": identifier,
        "extra_validations": {"56": label, "43": "False", "61": label, "55": label},
        **more,
    }


def captions() -> dict[str, Any]:
    """Two images, five captions each, annotations out of order."""
    texts = {
        37: ["a red bus on a street", "a bus", "a red bus", "the bus is red", "a street\n"],
        9: ["two dogs play", "dogs on grass", "two dogs", "dogs", "a dog and a dog"],
    }
    pairs = [(number, texts[number][at]) for at in range(5) for number in (9, 37)]
    return {
        "info": {**INFO, "description": "This is 1.0 version of the 2014 MS COCO dataset."},
        "images": [
            {
                "license": 5,
                "url": "http://farm4.staticflickr.com/3153/x.jpg",
                "file_name": f"COCO_val2014_{number:012d}.jpg",
                "id": number,
                "width": 640,
                "date_captured": "2013-11-14 16:28:13",
                "height": 360,
            }
            for number in texts
        ],
        "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 5, "name": "A"}],
        "type": "captions",
        "annotations": [
            {"image_id": number, "id": 1000 + at, "caption": text}
            for at, (number, text) in enumerate(pairs)
        ],
    }
