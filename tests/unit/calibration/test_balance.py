from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moir_edge.calibration import CalibrationSettings
from moir_edge.calibration.balance import Balance, parse_balance
from moir_edge.calibration.rows import CalibrationRows, row_sha256
from moir_edge.data.rows import Row
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.runtime.images import read_image
from moir_edge.runtime.processor import ModelInputs

CONDITIONS = ("clean", "blur=3.5px", "word-dropout=0.9")
PROMPT = "Which of the digits in the left picture is red?"


def _processor(messages: Sequence[Any], images: Sequence[Sequence[Path]]) -> ModelInputs:
    """Give the pixels as they are, and the prompt's length as the number of tokens."""
    text = messages[0][0]["content"][-1]["text"]
    if "refused" in text:
        raise DataError("refused")
    ids = np.zeros((1, len(text)), np.int64)
    pixels = np.stack([np.asarray(read_image(path), np.float32) for path in images[0]])
    return ModelInputs(
        input_ids=ids, attention_mask=np.ones_like(ids), pixel_values=pixels, prompts=()
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve rows that show one noise picture each."""
    lines = []
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        lines.append(json.dumps({"image": f"{index}.png", "prompt": PROMPT}))
    (tmp_path / "calib.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "calib.jsonl"


def _rows(data: Path, *conditions: str, limit: int = 12) -> CalibrationRows:
    return CalibrationRows(
        data,
        _processor,  # type: ignore[arg-type]
        limit=limit,
        max_bad_rows=3,
        balance=parse_balance(conditions),
    )


def test_every_condition_gets_an_equal_share() -> None:
    balance = Balance(CONDITIONS)
    for rows in (3, 30, 256):
        counts = Counter(balance.condition(index) for index in range(rows))
        assert set(counts) == set(CONDITIONS)
        assert max(counts.values()) - min(counts.values()) <= 1
    assert Counter(Balance(("clean", "clean", "jpeg@3")).condition(i) for i in range(30)) == {
        "clean": 20,
        "jpeg@3": 10,
    }
    assert Balance().condition(5) == "clean"


def test_rows_that_alternate_are_not_tied_to_a_condition() -> None:
    """Every third row, as in a file whose tasks take turns, comes under each of three conditions."""
    balance = Balance(CONDITIONS)
    for task in range(3):
        counts = Counter(balance.condition(index) for index in range(task, 300, 3))
        # of 100 draws with a third each the standard deviation is 4.7
        assert all(abs(counts[condition] - 100 / 3) < 5 * 4.7 for condition in CONDITIONS)


def test_names_are_those_of_diagnose() -> None:
    assert parse_balance((" clean", "blur ", "word-dropout=0.3")).conditions == (
        "clean",
        "blur@3",
        "word-dropout=0.3",
    )
    with pytest.raises(UnsupportedError, match="unknown degradation 'blurr': did you mean 'blur'"):
        parse_balance(("clean", "blurr"))
    with pytest.raises(DataError, match="level '9', expected 1 to 5"):
        parse_balance(("blur@9",))
    with pytest.raises(DataError, match="empty condition; separate conditions with commas"):
        parse_balance(("clean", ""))


def test_rows_are_seen_under_their_condition(data: Path) -> None:
    plain = list(_rows(data))
    rows = _rows(data, *CONDITIONS)
    seen = list(rows)
    assert rows.conditions == dict.fromkeys(CONDITIONS, 4)
    found: Counter[str] = Counter()
    for at, (before, after) in enumerate(zip(plain, seen, strict=True)):
        condition = rows.balance.condition(at)
        assert before.inputs.pixel_values is not None
        assert after.inputs.pixel_values is not None
        same_pixels = np.array_equal(before.inputs.pixel_values, after.inputs.pixel_values)
        same_words = before.inputs.input_ids.shape == after.inputs.input_ids.shape
        assert same_pixels == (condition != "blur=3.5px")
        # with p = 0.9 all ten words stay once in 10^10 prompts
        assert same_words == (condition != "word-dropout=0.9")
        if not same_pixels:  # a blur takes the noise out
            assert after.inputs.pixel_values.std() < 0.5 * before.inputs.pixel_values.std()
        found[condition] += 1
    assert rows.to_record()["conditions"] == found


def test_twice_the_same_and_another_hash_than_clean(data: Path) -> None:
    runs = [_rows(data, *CONDITIONS), _rows(data, *CONDITIONS)]
    first, second = (list(rows) for rows in runs)
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.inputs.pixel_values, other.inputs.pixel_values)  # type: ignore[arg-type]
        assert np.array_equal(one.inputs.input_ids, other.inputs.input_ids)
    assert runs[0].sha256 == runs[1].sha256
    clean, named = _rows(data), _rows(data, "clean")
    list(clean), list(named)
    assert clean.sha256 == named.sha256 != runs[0].sha256
    assert "conditions" not in clean.to_record()


def test_a_bad_row_passes_its_condition_on(data: Path) -> None:
    lines = data.read_text().splitlines()
    bad = [json.dumps({"image": "0.png", "prompt": "refused"}), "{"]
    data.write_text("\n".join([lines[0], *bad, *lines[1:]]))
    rows = _rows(data, "clean", "jpeg@3")
    list(rows)
    assert rows.conditions == {"clean": 6, "jpeg@3": 6}
    assert len(rows.bad_rows) == 2


def test_no_changed_picture_stays_behind(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    for _ in _rows(data, "blur"):
        assert list(folder.iterdir()) == []


def test_evaluation_rows_are_told_from_degraded_calibration_rows(data: Path) -> None:
    """The overlap goes by the row as the file has it, whatever becomes of it."""
    balance = Balance(("text-blank",))
    row = Row(id="1", task="vqa", images=(data.parent / "0.png",), prompt=PROMPT)
    changed = balance.apply(row, "text-blank", data.parent)
    assert changed.prompt == ""
    assert row_sha256(changed) != row_sha256(row)


def test_settings_store_the_labels(data: Path) -> None:
    settings = CalibrationSettings(data=data, balance=("clean", "blur"))
    assert settings.balance == ("clean", "blur@3")
    with pytest.raises(UnsupportedError, match="unknown degradation 'fog'"):
        CalibrationSettings(data=data, balance=("fog",))


def test_calibration_pulls_no_torch() -> None:
    code = (
        "import sys, moir_edge.calibration, moir_edge.calibration.preparation\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
