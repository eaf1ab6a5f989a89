from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moir_edge.calibration.rows import CalibrationRows, refuse_overlap, row_sha256
from moir_edge.data.rows import read_rows
from moir_edge.errors import DataError
from moir_edge.runtime.images import read_image
from moir_edge.runtime.processor import ModelInputs

LONGEST = 40


def _processor(messages: Sequence[Any], images: Sequence[Sequence[Path]]) -> ModelInputs:
    """Stand for the runtime's processor: refuses damaged images and long prompts, as that does."""
    text = messages[0][0]["content"][-1]["text"]
    pixels = np.stack([np.asarray(read_image(path), np.float32) for path in images[0]])
    if len(text) >= LONGEST:
        raise DataError(f"the prompt has {len(text)} tokens, the model's context holds {LONGEST}")
    if "not finite" in text:
        pixels[0, 0, 0, 0] = np.nan
    ids = np.zeros((1, len(text)), np.int64)
    return ModelInputs(
        input_ids=ids, attention_mask=np.ones_like(ids), pixel_values=pixels, prompts=()
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (4, 4), (index * 90, 10, 10)).save(tmp_path / name)
    (tmp_path / "damaged.png").write_bytes((tmp_path / "a.png").read_bytes()[:30])
    return tmp_path


def _write(folder: Path, *lines: dict[str, Any] | str, name: str = "calib.jsonl") -> Path:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / name).write_text("\n".join(text) + "\n", encoding="utf-8")
    return folder / name


def _rows(path: Path, *, limit: int = 100, max_bad_rows: int = 10) -> CalibrationRows:
    return CalibrationRows(path, _processor, limit=limit, max_bad_rows=max_bad_rows)  # type: ignore[arg-type]


GOOD = {"image": "a.png", "prompt": "Which digit?"}
MORE = {"images": ["b.png", "a.png"], "prompt": "Both are red.", "context": "There is a 3."}
BAD = [
    ("{", "not valid JSON"),
    ({"image": "a.png"}, "key 'prompt' is missing"),
    ({"image": "a.png", "question": "Which?"}, "did you mean 'prompt'"),
    ({"image": "no.png", "prompt": "Which?"}, "no.png does not exist"),
    ({"image": "damaged.png", "prompt": "Which?"}, "damaged"),
    ({"image": "a.png", "prompt": "x" * LONGEST}, "the model's context holds 40"),
    ({"image": "a.png", "prompt": "not finite"}, "a NaN or an infinity after preprocessing"),
]


def test_rows_come_as_the_processor_makes_them(folder: Path) -> None:
    path = _write(folder, GOOD, MORE)
    rows = _rows(path)
    first, second = list(rows)
    assert first.where == f"{path}:1"
    assert second.inputs.pixel_values is not None
    assert second.inputs.pixel_values.shape == (2, 4, 4, 3)
    assert rows.count == 2
    assert rows.bad_rows == []


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_bad_rows_are_skipped_counted_and_named(folder: Path, line: Any, reason: str) -> None:
    path = _write(folder, GOOD, line, MORE)
    rows = _rows(path)
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:3"]
    (bad,) = rows.bad_rows
    assert bad.where == f"{path}:2"
    assert reason in bad.reason
    assert not bad.reason.startswith(str(path))
    assert rows.sha256 == _hash_of(_write(folder, GOOD, MORE, name="clean.jsonl"))


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_one_bad_row_too_many_fails(folder: Path, line: Any, reason: str) -> None:
    path = _write(folder, GOOD, line, MORE)
    with pytest.raises(
        DataError, match=r"that is bad row 1, and `calibration\.max_bad_rows` is 0"
    ) as error:
        list(_rows(path, max_bad_rows=0))
    assert str(error.value).startswith(f"{path}:2: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_no_usable_row_fails(folder: Path) -> None:
    with pytest.raises(DataError, match=r"holds no row to calibrate with \(1 bad\)"):
        list(_rows(_write(folder, "{")))
    with pytest.raises(DataError, match=r"holds no row to calibrate with \(0 bad\)"):
        list(_rows(_write(folder, "")))


def _hash_of(path: Path, limit: int = 100) -> str:
    rows = _rows(path, limit=limit)
    for _ in rows:
        pass
    return rows.sha256


def test_hash_follows_the_content(folder: Path) -> None:
    base = _hash_of(_write(folder, GOOD, MORE))
    assert _hash_of(_write(folder, {**GOOD, "id": "7", "answers": ["x"]}, MORE)) == base
    assert _hash_of(_write(folder, MORE, GOOD)) != base
    assert _hash_of(_write(folder, {**GOOD, "prompt": "Which digits?"}, MORE)) != base
    assert _hash_of(_write(folder, GOOD, MORE, GOOD), limit=2) == base
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())
    assert _hash_of(_write(folder, {**GOOD, "image": "c.png"}, MORE)) == base
    Image.new("RGB", (4, 4), (1, 2, 3)).save(folder / "a.png")
    assert _hash_of(_write(folder, GOOD, MORE)) != base


def test_context_and_prompt_are_told_apart(folder: Path) -> None:
    joined = {"image": "a.png", "prompt": "A 3. Which?"}
    apart = {"image": "a.png", "context": "A 3.", "prompt": "Which?"}
    first, second = read_rows(_write(folder, joined, apart))
    assert row_sha256(first) != row_sha256(second)


def test_rows_of_the_evaluation_are_refused(folder: Path) -> None:
    path = _write(folder, "{", GOOD, MORE)
    other = {**GOOD, "prompt": "What colour?"}
    refuse_overlap(path, _write(folder, other, name="clean.jsonl"))
    # neither the id, the answers nor the image's name make another row of it
    same = {**MORE, "id": "x", "answers": ["true"]}
    evaluation = _write(folder, other, same, name="eval.jsonl")
    with pytest.raises(DataError) as error:
        refuse_overlap(path, evaluation)
    assert str(error.value) == (
        f"1 row(s) are in the calibration and in the evaluation data, the first: {path}:3 is "
        f"{evaluation}:2; calibrate with other rows"
    )


def test_record_for_the_manifest(folder: Path) -> None:
    path = _write(folder, GOOD, "{", MORE)
    rows = _rows(path, limit=2)
    list(rows)
    record = rows.to_record()
    assert json.loads(json.dumps(record)) == record
    assert (record["file"], record["rows"], len(record["bad_rows"])) == ("calib.jsonl", 2, 1)
