from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moir_edge.data.answers import Answer
from moir_edge.data.formats import read_dataset
from moir_edge.errors import DataError
from moir_edge.metrics.scores import row_scores, task_figures

from .official import statement, touch, write

BOTTLES = "All the bottles are from the same brand."
SEVEN = "The left and right image contains seven beer bottles."
LINES = [
    statement("dev-850-0-0", BOTTLES, "True"),
    statement("dev-850-1-0", BOTTLES, "False"),
    statement("dev-850-0-1", SEVEN, "True"),
    statement("dev-850-1-1", SEVEN, "True"),
    statement("dev-935-0-0", BOTTLES, "False"),
]
PAIRS = ("dev-850-0", "dev-850-1", "dev-935-0")
NAMES = tuple(f"{pair}-img{side}.png" for pair in PAIRS for side in (0, 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "dev.json", LINES)
    touch(tmp_path / "images", *NAMES)
    return tmp_path


def _read(folder: Path, **more: Any) -> Any:
    given = {"images": folder / "images", **more}
    return read_dataset(folder / "dev.json", format="nlvr2", **given)


def test_rows_of_the_official_lines(folder: Path) -> None:
    rows = _read(folder, prompt="{text} True or false?")
    assert rows[1].id == "dev-850-1-0"
    assert rows[1].task == "statement"
    assert rows[1].prompt == f"{BOTTLES} True or false?"
    assert [path.name for path in rows[1].images] == ["dev-850-1-img0.png", "dev-850-1-img1.png"]
    assert [row.answers for row in rows] == [
        ("true",),
        ("false",),
        ("true",),
        ("true",),
        ("false",),
    ]
    assert rows[1].target == "false"
    # the image pair is the third part; the same words about other pictures are another sentence
    assert [row.group for row in rows] == [
        *("dev-850-0", "dev-850-0", "dev-850-1", "dev-850-1", "dev-935-0")
    ]


def test_accuracy_and_consistency_of_the_rows(folder: Path) -> None:
    rows = _read(folder)
    said = ("True", "false.", "true", "false", "False")
    answers = [_answer(text) for text in said]
    scores = row_scores(rows, answers)
    assert scores == [1.0, 1.0, 1.0, 0.0, 1.0]
    figures = task_figures(rows, scores, None, seed=0)["statement"]
    # four of five right; of three sentences, dev-850-1 is wrong once
    assert figures.score == pytest.approx(80.0, abs=1e-6)
    assert figures.consistency == pytest.approx(100 * 2 / 3, abs=1e-6)
    assert figures.consistency == pytest.approx(100 * _official_consistency(LINES, said), abs=1e-6)


def _official_consistency(lines: list[dict[str, Any]], said: tuple[str, ...]) -> float:
    """Consistency as defined by the authors' evaluation: by identifier, its third part blanked."""
    right: dict[str, bool] = {}
    for line, text in zip(lines, said, strict=True):
        parts = line["identifier"].split("-")
        key = "-".join([*parts[:2], "", *parts[3:]])
        is_right = text.strip(".").lower() == line["label"].lower()
        right[key] = right.get(key, True) and is_right
    return sum(right.values()) / len(right)


def _answer(text: str) -> Answer:
    return Answer(text=text, token_ids=(1,))


@pytest.mark.parametrize("below", ["57", "train/57", "train", "."])
def test_training_images_lie_in_folders_by_number(tmp_path: Path, below: str) -> None:
    lines = [statement("train-10171-2-0", SEVEN, "True", directory=57)]
    write(tmp_path / "dev.json", lines)
    names = [f"{below}/train-10171-2-img{side}.png" for side in (0, 1)]
    touch(tmp_path / "images", *names)
    (row,) = _read(tmp_path)
    assert [path.resolve() for path in row.images] == [
        (tmp_path / "images" / name).resolve() for name in names
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({**LINES[0], "label": "yes"}, "got 'yes' for 'label', expected \"True\" or \"False\""),
        ({**LINES[0], "label": True}, "got True for 'label'"),
        ({k: v for k, v in LINES[0].items() if k != "label"}, "got nothing for 'label'"),
        ({**LINES[0], "identifier": "dev-850-0"}, "identifier 'dev-850-0' is not split-set-pair"),
        ({**LINES[0], "sentence": None}, "got None for 'sentence', expected a string"),
        ({**LINES[0], "identifier": "dev-1-0-0"}, "there is no image dev-1-0-img0.png nor as dev/"),
        ("{broken", "not valid JSON"),
    ],
)
def test_bad_line_is_one_sentence_with_file_and_line(
    folder: Path, line: dict[str, Any] | str, message: str
) -> None:
    path = write(folder / "dev.json", LINES[:1])
    if isinstance(line, str):
        path.write_text(path.read_text() + line + "\n")
    else:
        write(path, [LINES[0], line])
    with pytest.raises(DataError) as caught:
        _read(folder)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
