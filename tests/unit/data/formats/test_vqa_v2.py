from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moir_edge.data.formats import read_dataset
from moir_edge.errors import DataError
from moir_edge.metrics import vqa_accuracy

from .official import VOTES, annotations, questions, touch, write

IMAGES = ("COCO_val2014_000000262148.jpg", "COCO_val2014_000000393225.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "questions.json", questions())
    write(tmp_path / "annotations.json", annotations())
    touch(tmp_path / "val2014", *IMAGES)
    return tmp_path


def _read(folder: Path, **more: Any) -> Any:
    given = {"annotations": folder / "annotations.json", "images": folder / "val2014", **more}
    return read_dataset(folder / "questions.json", format="vqa-v2", **given)


def test_rows_of_the_official_files(folder: Path) -> None:
    rows = _read(folder)
    assert [row.id for row in rows] == ["262148000", "262148001", "393225000"]
    assert [row.prompt for row in rows][::2] == [
        "Where is he looking?",
        "How many bowls are there?",
    ]
    assert [row.images for row in rows] == [
        (folder / "val2014" / name,) for name in (IMAGES[0], *IMAGES)
    ]
    assert {row.task for row in rows} == {"vqa"}
    for row in rows:
        assert sorted(row.answers) == sorted(VOTES[int(row.id)])
    # five votes each for yes and no: the data set's own choice breaks the tie
    assert [row.target for row in rows] == ["down", "no", "3"]


def test_accuracy_of_the_rows(folder: Path) -> None:
    first, second, third = _read(folder)
    # by hand, from the mean over ten leave-one-out sets of min(1, matches / 3)
    for row, answer, expected in (
        (first, "Down.", 1.0),  # 7 votes
        (first, "the table", 0.3),  # 1 vote; the article is dropped
        (second, "yes", 1.0),  # 5 votes
        (third, "two", 0.6),  # 2 votes, as a digit
        (third, "3", 0.9),  # 3 votes: (3·2/3 + 7·1)/10
        (third, "9", 0.0),
    ):
        assert vqa_accuracy(answer, row.answers) == pytest.approx(expected, abs=1e-6)


def test_split_folder_limit_and_wording(folder: Path) -> None:
    short = "{text} Answer with one word."
    (row,) = _read(folder, images=folder, limit=1, prompt=short)
    assert row.images == (folder / "val2014" / IMAGES[0],)
    assert row.prompt == "Where is he looking? Answer with one word."
    (folder / "val2014" / IMAGES[1]).unlink()
    assert len(_read(folder, limit=2)) == 2


@pytest.mark.parametrize("split", ["test2015", "test-dev2015"])
def test_test_splits_have_no_answers(folder: Path, split: str) -> None:
    write(folder / "questions.json", questions(split))
    names = [name.replace("val2014", "test2015") for name in IMAGES]
    rows = _read(folder, annotations=None, images=touch(folder / "test2015", *names))
    assert rows[0].images[0].name == "COCO_test2015_000000262148.jpg"
    assert all(row.answers == () and row.target is None for row in rows)


def _unknown(folder: Path) -> None:
    content = annotations()
    content["annotations"].append({**content["annotations"][0], "question_id": 7})
    write(folder / "annotations.json", content)


def _unanswered(folder: Path) -> None:
    content = annotations()
    del content["annotations"][2]
    write(folder / "annotations.json", content)


def _voteless(folder: Path) -> None:
    content = annotations()
    content["annotations"][0]["answers"] = []
    write(folder / "annotations.json", content)


def _nameless(folder: Path) -> None:
    content = questions()
    content["questions"] = [{"image_id": 1, "question": "Why?"}]
    write(folder / "questions.json", content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_unknown, "annotations.json: question 7 is not in "),
        (_unanswered, "question 393225000 has no annotation in "),
        (_voteless, "annotation of question 262148000: there is no answer; VQA-v2 has ten"),
        (
            _nameless,
            "questions.json: questions[0]: got nothing for 'question_id', expected a number",
        ),
        (
            lambda at: write(at / "questions.json", annotations()),
            "questions.json holds the annotations, expected the questions; the questions file is `data.path`",
        ),
        (
            lambda at: write(at / "annotations.json", questions()),
            "annotations.json holds the questions, expected the annotations",
        ),
        (
            lambda at: write(at / "questions.json", questions("train2014")),
            "holds annotations of val2014, but the questions are of train2014",
        ),
        (
            lambda at: write(at / "questions.json", {**questions(), "data_type": "abstract_v002"}),
            "is about abstract_v002 images; only files on COCO images",
        ),
        (
            lambda at: write(at / "questions.json", {**questions(), "questions": [4]}),
            "questions[0] is not an object: 4",
        ),
        (
            lambda at: (at / "annotations.json").write_text('{"info": '),
            "annotations.json cannot be read as JSON",
        ),
        (
            lambda at: (at / "annotations.json").unlink(),
            "annotations.json cannot be read (No such file or directory); download it again",
        ),
        (
            lambda at: (at / "val2014" / IMAGES[1]).unlink(),
            "question 393225000: there is no image COCO_val2014_000000393225.jpg nor as "
            "val2014/COCO_val2014_000000393225.jpg in ",
        ),
    ],
)
def test_bad_files_are_named_in_one_line(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(DataError) as caught:
        _read(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_flags(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"answers are in a separate file: give `data\.annotations`"
    ):
        _read(folder, annotations=None)
    with pytest.raises(DataError, match=r"does not mark the question; write \{text\}"):
        _read(folder, prompt="Answer shortly.")
