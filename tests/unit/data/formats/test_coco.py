from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moir_edge.data.formats import read_dataset
from moir_edge.errors import DataError
from moir_edge.metrics import cider_d

from .official import captions, touch, write

NAMES = ("COCO_val2014_000000000037.jpg", "COCO_val2014_000000000009.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "captions.json", captions())
    touch(tmp_path / "val2014", *NAMES)
    return tmp_path


def _read(folder: Path, **more: Any) -> Any:
    given = {"images": folder / "val2014", **more}
    return read_dataset(folder / "captions.json", format="coco-captions", **given)


def test_all_references_of_an_image_are_one_row(folder: Path) -> None:
    first, second = _read(folder)
    assert (first.id, second.id) == ("37", "9")
    assert first.task == "caption"
    assert first.images == (folder / "val2014" / NAMES[0],)
    assert first.prompt == "Describe the image in one sentence."
    assert first.answers == (
        *("a red bus on a street", "a bus", "a red bus", "the bus is red", "a street"),
    )
    assert second.answers[0] == second.target == "two dogs play"
    (worded,) = _read(folder, images=folder, prompt="Write a caption.", limit=1)
    assert worded.prompt == "Write a caption."
    assert worded.images == first.images


def test_score_of_the_rows(folder: Path) -> None:
    rows = _read(folder)
    scores = cider_d(["a red bus", "cats"], [row.answers for row in rows])
    assert scores[0] == pytest.approx(_by_hand(), abs=1e-6)
    assert scores[1] == 0.0


def _by_hand() -> float:
    """CIDEr-D of `a red bus` over the five captions of the bus.

    Two rows; "a" and "on" stand in the references of both (idf 0), each other n-gram of the bus in one (idf ln 2). With
    idf as the unit, n = 1: red, bus; n = 2: a red, red bus; n = 3: a red bus; n = 4: none. The numerator takes the
    smaller weight, here 1 for every shared n-gram; length differences are in bigrams, σ = 6.
    """
    root = math.sqrt

    def near(difference: int) -> float:
        return math.exp(-(difference**2) / 72)

    sums = (
        # a red bus on a street: norms √3 (red bus street), √5 and √4
        near(3) * (2 / (root(2) * root(3)) + 2 / (root(2) * root(5)) + 1 / root(4)),
        # a bus: norms 1 (bus), 1 (a bus); no n-gram of two words shared
        near(1) * (1 / root(2)),
        # a red bus
        near(0) * (1 + 1 + 1),
        # the bus is red: the bus is red = √4 words, no shared bigram
        near(1) * (2 / (root(2) * root(4))),
        # a street: nothing shared but "a"
        0.0,
    )
    return 10 * sum(sums) / 4 / 5


def _without(key: str, number: int) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        content = captions()
        content[key] = [one for one in content[key] if number not in one.values()]
        write(folder / "captions.json", content)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without("annotations", 9), "captions.json: image 9 has no caption"),
        (_without("images", 9), "annotation 1000 is about image 9, which is not in 'images'"),
        (
            lambda at: write(at / "captions.json", {**captions(), "annotations": [{"id": 3, "bbox": []}]}),
            "annotation 3 has no caption; expected captions_*.json, not the file of another COCO task",
        ),
        (
            lambda at: write(at / "captions.json", {"images": []}),
            "captions.json: got nothing for 'annotations', expected a list",
        ),
        (lambda at: write(at / "captions.json", {**captions(), "images": [], "annotations": []}), "holds no rows"),
        (
            lambda at: write(at / "captions.json", {**captions(), "images": [{"id": {}}], "annotations": []}),
            "captions.json: image {}: got {} for 'id', expected a number",
        ),
        (lambda at: (at / "captions.json").write_text("[]"), "holds a list, expected an object"),
        (
            lambda at: (at / "val2014" / NAMES[1]).unlink(),
            "image 9: there is no image COCO_val2014_000000000009.jpg nor as val2014/",
        ),
    ],
)  # fmt: skip
def test_bad_files_are_named_in_one_line(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(DataError) as caught:
        _read(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_request_has_no_place_for_a_question(folder: Path) -> None:
    with pytest.raises(DataError, match="cannot be used for captions, which have no question"):
        _read(folder, prompt="{text} Say more.")


def test_names_of_2017(folder: Path) -> None:
    content = captions()
    for image in content["images"]:
        image["file_name"] = image["file_name"].removeprefix("COCO_val2014_")
    write(folder / "captions.json", content)
    touch(folder / "val2017", "000000000037.jpg", "000000000009.jpg")
    assert _read(folder, images=folder / "val2017")[1].images[0].name == "000000000009.jpg"
