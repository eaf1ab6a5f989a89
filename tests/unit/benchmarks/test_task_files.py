"""Tasks for other tools hold every row with its words, images and answers."""

from __future__ import annotations

import base64
import csv
import json
import runpy
from pathlib import Path

import pytest
import yaml
from PIL import Image

from benchmarks.task_files import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / name)
    rows = [
        {"id": "one", "task": "vqa", "image": "a.png", "prompt": "What?", "answers": ["Red"]},
        {
            "id": "two",
            "task": "statement",
            "images": ["a.png", "b.png"],
            "context": "Two.",
            "prompt": "Both are\tred.",
            "answers": ["true"],
        },
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Loader(yaml.SafeLoader):
    """Takes lmms-eval's names of functions."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def test_three_tools_get_the_same_questions(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "with: blank"
    assert main([str(data), str(folder), "-q", "--max-new-tokens", "8"]) == 0
    task = yaml.load((folder / "lmms-eval/moir_rows.yaml").read_text(), Loader)
    assert task["generation_kwargs"]["max_new_tokens"] == 8
    lines = Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [one["question"] for one in records] == ["What?", "Two. Both are\tred."]
    functions = runpy.run_path(str(folder / "lmms-eval/functions.py"))
    assert {task["doc_to_visual"], task["doc_to_text"], task["process_results"]} == {
        f"functions.{name}" for name in ("images", "question", "score")
    }
    assert [image.size for image in functions["images"](records[1])] == [(4, 4), (4, 4)]
    assert functions["score"](records[0], [" red. "]) == {"exact_match": 1.0}
    assert functions["score"](records[0], ["blue"]) == {"exact_match": 0.0}
    with (folder / "vlmevalkit/moir_rows.tsv").open(newline="") as stream:
        table = list(csv.DictReader(stream, delimiter="\t"))
    assert [row["question"] for row in table] == ["What?", "Two. Both are\tred."]
    assert base64.b64decode(table[0]["image"]) == (tmp_path / "a.png").read_bytes()
    assert table[1]["image"].startswith("['")
    requests = [
        json.loads(line) for line in (folder / "aiperf/requests.jsonl").read_text().splitlines()
    ]
    assert [len(one["images"]) for one in requests] == [1, 2]
    assert requests[1]["texts"] == ["Two. Both are\tred."]


def test_a_row_without_answers_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.write_text('{"id": "x", "task": "vqa", "image": "a.png", "prompt": "What?"}\n')
    assert main([str(data), str(tmp_path / "out"), "-q"]) == 2
    assert "data.jsonl:1: the row has no answers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
