from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moir_edge.benchmarks.data import Row, read_rows
from moir_edge.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"not decoded by the reader")
    return tmp_path


def _write(folder: Path, *lines: str | dict[str, Any]) -> Path:
    path = folder / "eval.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def test_full_and_minimal_rows(folder: Path) -> None:
    full = {
        "id": 7,
        "task": "statement",
        "images": ["a.png", "b.png"],
        "prompt": "Both are red.",
        "context": "There is a red 3.",
        "answers": ["true"],
        "group": 12,
        "source": "a key of the user's own",
    }
    rows = read_rows(_write(folder, full, "", {"image": "a.png", "prompt": "Which?"}))
    assert rows == [
        Row(
            id="7",
            task="statement",
            images=(folder / "a.png", folder / "b.png"),
            prompt="Both are red.",
            context="There is a red 3.",
            answers=("true",),
            group="12",
        ),
        Row(id="3", task="vqa", images=(folder / "a.png",), prompt="Which?"),
    ]
    assert rows[0].text == "There is a red 3. Both are red."
    assert rows[1].text == "Which?"


def test_limit_stops_before_later_lines_are_checked(folder: Path) -> None:
    path = _write(folder, {"image": "a.png", "prompt": "x"}, "{broken")
    assert len(read_rows(path, limit=1)) == 1


GOOD = {"image": "a.png", "prompt": "x"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "not valid JSON"),
        ("[1]", "got a JSON list, expected an object"),
        ({"image": "a.png"}, "key 'prompt' is missing"),
        ({"image": "a.png", "prompt": " "}, "'prompt' is empty"),
        ({"prompt": "x"}, "no image; give 'image' (one path) or 'images' (a list of paths)"),
        ({"images": [], "prompt": "x"}, "no image; give"),
        ({**GOOD, "images": ["a.png"]}, "both 'image' and 'images' are given; keep one of them"),
        ({"image": "gone.png", "prompt": "x"}, "gone.png does not exist"),
        ({**GOOD, "task": "vqaa"}, "unknown task 'vqaa'; did you mean 'vqa'?"),
        ({**GOOD, "answer": "red"}, "unknown key 'answer', did you mean 'answers'?"),
        ({**GOOD, "answers": "red"}, "'answers' must be a list of strings, got \"red\""),
        ({**GOOD, "answers": [1]}, "'answers' must be a list of strings, got [1]"),
        ({**GOOD, "context": 4}, "'context' must be a string, got int"),
    ],
)
def test_bad_line_is_one_sentence_with_file_and_line(
    folder: Path, line: str | dict[str, Any], message: str
) -> None:
    path = _write(folder, GOOD, line)
    with pytest.raises(DataError) as caught:
        read_rows(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:2: ")
    assert message in text
    assert "\n" not in text


def test_missing_empty_and_binary_file(folder: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.jsonl: No such file"):
        read_rows(folder / "none.jsonl")
    with pytest.raises(DataError, match="holds no rows"):
        read_rows(_write(folder, ""))
    binary = folder / "eval.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_rows(binary)
