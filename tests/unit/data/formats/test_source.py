"""What all formats share: one entry point, refusals of flags, and the same rows through `compare`'s command line."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moir_edge.data.formats import DataSource, as_source, format_names, read_dataset
from moir_edge.data.formats.jsonl import JsonLines
from moir_edge.data.formats.source import get_format, register
from moir_edge.data.rows import Row, read_rows
from moir_edge.errors import DataError, UnsupportedError

from .official import annotations, captions, questions, statement, touch, write

HUB_FLAGS = {
    "split": {"split": "train"},
    "subset": {"subset": "all"},
    "column": {"columns": {"prompt": "query"}},
    "task": {"task": "vqa"},
}


def test_json_lines_are_the_default(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    path = write(tmp_path / "rows.jsonl", [{"image": "a.png", "prompt": str(i)} for i in range(3)])
    assert read_dataset(path) == read_rows(path)
    assert read_dataset(path, limit=2) == read_rows(path, limit=2)
    source = as_source(path)
    assert as_source(source) is source
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no rows"):
        read_dataset(path)


def test_flags_that_do_not_fit_the_format(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(UnsupportedError, match="unknown data format 'vqa': did you mean 'vqa-v2'"):
        read_dataset(path, format="vqa")
    for name in format_names():
        takes_images = get_format(name).takes_images
        kind = {"format": name, "images": tmp_path} if takes_images else {"format": name}
        if takes_images:
            with pytest.raises(DataError, match=rf"{name} needs the folder of the images: give `data\.images`"):  # fmt: skip
                read_dataset(path, format=name)
        if name != "vqa-v2":
            with pytest.raises(DataError, match=rf"{name} takes no `data\.annotations`"):
                read_dataset(path, annotations=path, **kind)  # type: ignore[arg-type]
        if name != "hub":
            for flag, value in HUB_FLAGS.items():
                with pytest.raises(DataError, match=rf"{name} takes no `data\.{flag}"):
                    read_dataset(path, **kind, **value)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"jsonl takes no `data\.images`"):
        read_dataset(path, images=tmp_path)
    with pytest.raises(DataError, match=r"jsonl takes no `data\.prompt`"):
        read_dataset(path, prompt="{text}")
    with pytest.raises(DataError, match="gone is not a folder"):
        read_dataset(path, format="nlvr2", images=tmp_path / "gone")


def test_record_holds_paths_and_hashes(tmp_path: Path) -> None:
    asked = write(tmp_path / "questions.json", questions())
    answered = write(tmp_path / "annotations.json", annotations())
    source = DataSource(path=asked, format="vqa-v2", annotations=answered, images=tmp_path)
    record = source.record()
    assert record["sha256"] == hashlib.sha256(asked.read_bytes()).hexdigest()
    assert record["annotations_sha256"] == hashlib.sha256(answered.read_bytes()).hexdigest()
    assert (record["path"], record["annotations"]) == (str(asked), str(answered))
    assert json.loads(json.dumps(record)) == record
    # a copy elsewhere is the same data set
    copy = asked.rename(tmp_path / "moved.json")
    moved = DataSource(path=copy, format="vqa-v2", annotations=answered, images=tmp_path)
    assert moved.identity().items() <= record.items()


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'jsonl' is registered already"):
        register(JsonLines)


def test_answers_that_nobody_needs_are_not_asked_for(tmp_path: Path) -> None:
    """Calibration takes the questions of VQA-v2 without their annotations, and NLVR2 and COCO without labels."""
    asked = write(tmp_path / "questions.json", questions())
    touch(tmp_path, *(f"COCO_val2014_{number:012d}.jpg" for number in (262148, 393225)))
    with pytest.raises(DataError, match=r"give `data\.annotations`"):
        DataSource(path=asked, format="vqa-v2", images=tmp_path).read()
    rows = DataSource(path=asked, format="vqa-v2", images=tmp_path, answers=False).read()
    assert [row.answers for row in rows] == [(), (), ()]
    unlabelled = statement("dev-1-0-0", "Both are red.", "True")
    del unlabelled["label"]
    touch(tmp_path, "dev-1-0-img0.png", "dev-1-0-img1.png")
    path = write(tmp_path / "dev.json", [unlabelled])
    (row,) = DataSource(path=path, format="nlvr2", images=tmp_path, answers=False).read()
    assert (row.prompt, row.answers) == ("Both are red.", ())
    content = captions()
    del content["annotations"]
    touch(tmp_path, *(f"COCO_val2014_{number:012d}.jpg" for number in (9, 37)))
    path = write(tmp_path / "captions.json", content)
    rows = DataSource(path=path, format="coco-captions", images=tmp_path, answers=False).read()
    assert [(row.id, row.answers) for row in rows] == [("37", ()), ("9", ())]


def test_scan_goes_on_after_a_row_that_cannot_be_used(tmp_path: Path) -> None:
    asked = write(tmp_path / "questions.json", questions())
    touch(tmp_path, f"COCO_val2014_{393225:012d}.jpg")
    source = DataSource(path=asked, format="vqa-v2", images=tmp_path, answers=False)
    found = list(source.scan())
    assert [type(row) for _, row in found] == [DataError, DataError, Row]
    where, error = found[0]
    assert where == f"{asked}: question 262148000"
    assert str(error).startswith(f"{where}: there is no image COCO_val2014_000000262148.jpg")


@pytest.mark.parametrize(
    ("task", "answers", "target"),
    [
        ("vqa", (), None),
        ("vqa", ("blue", "red", "red"), "blue"),  # alternatives, the first is the writer's choice
        ("vqa", ("blue", *["red"] * 9), "red"),  # votes
        ("vqa", ("blue", "red") * 5, "blue"),  # a tie
        ("caption", ("a", *["b"] * 10), "a"),
        ("statement", ("true",), "true"),
    ],
)
def test_target(task: str, answers: tuple[str, ...], target: str | None) -> None:
    row = Row(id="1", task=task, images=(Path("a.png"),), prompt="x", answers=answers)
    assert row.target == target


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": None}, "`data.path` is None (NoneType); it must be given"),
        ({"data": 3}, "`data.path` is 3 (int); it must be a path"),
        ({"data": b"rows.jsonl"}, "`data.path` is b'rows.jsonl' (bytes); it must be a path"),
        ({"data": "a\0b"}, "`data.path` is 'a\\x00b' (str); it must be a path that a file can have"),
        ({"data": "\ud800"}, "`data.path` is '\\ud800' (str); it must be a path that a file can have"),
        ({"images": ["a"]}, "`data.images` is ['a'] (list); it must be a path"),
        ({"annotations": 2.5}, "`data.annotations` is 2.5 (float); it must be a path"),
        ({"format": None}, "`data.format` is None (NoneType); it must be given"),
        ({"format": {}}, "`data.format` is {} (dict); it must be a string"),
        ({"prompt": 3}, "`data.prompt` is 3 (int); it must be a string"),
        ({"columns": ["prompt"]}, "`data.columns` is ['prompt'] (list); it must be a mapping from names to values"),
        ({"columns": {"prompt": 3}}, "`data.columns` prompt= is 3 (int); it must be a string"),
        ({"limit": "3"}, "`limit` is '3' (str); it must be a whole number"),
        ({"limit": 0}, "`limit` is 0; it must be at least 1"),
    ],
)  # fmt: skip
def test_a_wrong_type_of_an_argument_is_one_line(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    touch(tmp_path, "a.png")
    path = write(tmp_path / "rows.jsonl", [{"image": "a.png", "prompt": "x"}])
    arguments: dict[str, Any] = {"data": path, **given}
    with pytest.raises(DataError) as caught:
        read_dataset(**arguments)
    assert str(caught.value) == message


def test_numbers_of_numpy_and_paths_as_text_are_taken(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    path = write(tmp_path / "rows.jsonl", [{"image": "a.png", "prompt": "x"}] * 3)
    assert read_dataset(str(path), limit=np.int64(2)) == read_rows(path)[:2]


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match=r"rows\.jsonl is not a regular file"):
        read_dataset(pipe)
    with pytest.raises(DataError, match=r"rows\.jsonl is not a regular file; download it again"):
        read_dataset(pipe, format="coco-captions", images=tmp_path)


def test_a_name_longer_than_a_file_can_have_is_a_missing_file(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"image": "a" * 5000, "prompt": "x"}])
    with pytest.raises(DataError, match="does not exist"):
        read_dataset(path)
    image = statement("dev-1-0-0" + "0" * 300, "Both are red.", "True")
    path = write(tmp_path / "dev.json", [image])
    with pytest.raises(DataError, match="there is no image dev-1-0-img0"):
        read_dataset(path, format="nlvr2", images=tmp_path)
