from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from moir_edge.data import json_lines, pictures
from moir_edge.data.pictures import row_images
from moir_edge.data.rows import Row, first_refused, read_rows
from moir_edge.errors import DataError
from moir_edge.image_limit import limited_image_pixels


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
        (
            "{broken",
            "not valid JSON (Expecting property name enclosed in double quotes at column 2)",
        ),
        ("[", "write one object per line, without the brackets of an array"),
        ("[" * 100_000, "not valid JSON"),
        ("a.png", "not valid JSON (Expecting value at column 1); write one object per line"),
        ("[1]", "got a JSON list, expected an object"),
        ({"image": "a.png"}, "key 'prompt' is missing"),
        ({"image": "a.png", "prompt": " "}, "'prompt' is empty"),
        ({"prompt": "x"}, "no image; give 'image' (one path) or 'images' (a list of paths)"),
        ({"images": [], "prompt": "x"}, "no image; give"),
        ({**GOOD, "images": ["a.png"]}, "both 'image' and 'images' are given; keep one of them"),
        ({"image": "gone.png", "prompt": "x"}, "gone.png does not exist"),
        ({"image": "x" * 5000, "prompt": "x"}, "does not exist"),
        ({"image": ".", "prompt": "x"}, "is a folder; give the path of an image file"),
        ({"image": 5, "prompt": "x"}, "'image' must be a string, got int"),
        (
            {"image": "a.png", "prompt": "\ud83d"},
            "'prompt' holds half of a character ('\\ud83d' at position 1)",
        ),
        ({**GOOD, "answers": ["\ud83d"]}, "'answers' holds half of a character"),
        (
            {**GOOD, "answers": {"a": 1}},
            "'answers' must be a list of strings, got {\"a\": 1}; write it as",
        ),
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
    with pytest.raises(
        DataError, match=r"eval\.jsonl:1: the file is UTF-16; save the file as UTF-8"
    ):
        read_rows(binary)


def test_what_windows_editors_write_is_read(folder: Path) -> None:
    path = folder / "eval.jsonl"
    line = json.dumps({**GOOD, "answers": None})
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n  \r\n{line}\r\n".encode())
    rows = read_rows(path)
    assert [row.id for row in rows] == ["1", "4"]
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:4"]


def test_the_line_of_a_byte_that_is_not_utf8_is_named(folder: Path) -> None:
    path = folder / "eval.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert str(caught.value) == (f"{path}:2: byte 16 is not UTF-8 text; save the file as UTF-8")


def test_a_row_made_in_python_is_named_by_its_id(folder: Path) -> None:
    row = Row(id="seven", task="vqa", images=(folder / "a.png",), prompt="x")
    assert row.place == "row seven"
    with pytest.raises(DataError, match=r"^row seven: .*a\.png is not an image"):
        row_images(row)


def test_an_image_error_names_the_row_and_the_path(folder: Path) -> None:
    path = _write(folder, GOOD)
    (row,) = read_rows(path)
    with pytest.raises(DataError) as caught:
        row_images(row)
    assert str(caught.value) == (
        f"{path}:1: {folder / 'a.png'} is not an image in PNG, JPEG, WebP, BMP or GIF; "
        "save it as one of these"
    )


def test_the_row_that_a_batch_fails_on_is_named(folder: Path) -> None:
    rows = read_rows(_write(folder, GOOD, {**GOOD, "prompt": "too long"}))

    def encode(batch: Sequence[Row]) -> None:
        if any("long" in row.prompt for row in batch):
            raise ValueError("over the limit\nof two lines")

    error = first_refused(rows, encode, ValueError("some row"))
    assert str(error) == f"{folder / 'eval.jsonl'}:2: over the limit of two lines"
    assert str(first_refused(rows[:1], encode, ValueError("another reason"))) == "another reason"


def test_decoded_images_are_kept_up_to_a_number_of_pixels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "CACHED_IMAGE_PIXELS", 250)
    monkeypatch.setattr(pictures, "_kept", pictures._Cache())
    paths = [folder / f"{name}.png" for name in "xyz"]
    for path in paths:
        Image.new("RGB", (10, 10)).save(path)
    first, second = (pictures.decoded_image(path) for path in paths[:2])
    assert pictures.decoded_image(paths[0]) is first
    pictures.decoded_image(paths[2])  # in place of the second, which was used before the first
    assert pictures.decoded_image(paths[0]) is first
    assert pictures.decoded_image(paths[1]) is not second
    large = folder / "large.png"
    Image.new("RGB", (20, 20)).save(large)
    assert pictures.decoded_image(large) is not pictures.decoded_image(large)


def test_an_image_far_longer_than_wide_is_refused(folder: Path) -> None:
    for size, refused in (((1, 200), False), ((201, 1), True)):
        path = folder / f"{size[0]}.png"
        Image.new("RGB", size).save(path)
        row = Row(id="seven", task="vqa", images=(path,), prompt="x")
        if not refused:
            assert row_images(row)[0].size == size
            continue
        message = "row seven: .*has 201x1 pixels, one side more than 200 times the other; crop it"
        with pytest.raises(DataError, match=message):
            row_images(row)


def test_a_line_without_end_is_refused_with_its_number(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "PROMPT_BYTES", 200)
    path = _write(folder, GOOD, GOOD | {"prompt": "x" * 200})
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert str(caught.value) == (
        f"{path}:2: the line has more than 200 bytes; write one object per line"
    )


def test_the_images_of_a_row_have_a_bound_together(folder: Path) -> None:
    path = folder / "picture.png"
    Image.new("RGB", (10, 10)).save(path)
    row = Row(id="seven", task="vqa", images=(path,) * 4, prompt="x")
    with limited_image_pixels(100):
        assert len(row_images(row)) == 4
        message = "^row seven: its 5 images have more than 400 pixels together; scale them down, or"
        with pytest.raises(DataError, match=message):
            row_images(dataclasses.replace(row, images=(path,) * 5))
