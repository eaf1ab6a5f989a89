"""Degraded training rows: how many, which, the same ones after a resume; and the flag of the command."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from moir_edge.cli.main import main
from moir_edge.data.rows import Row
from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.tuning import TuneSettings
from moir_edge.tuning.degrading import degraded_share

MIX = ("blur=3px", "text-blank")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    from moir_edge.data.rows import read_rows

    folder = tmp_path_factory.mktemp("rows")
    return read_rows(write_jsonl(demo_rows("train", count=240, tasks=("vqa",)), folder))


def test_half_of_the_rows_are_degraded_each_in_one_way(rows: list[Row], tmp_path: Path) -> None:
    made = degraded_share(rows, MIX, 0.5, tmp_path / "images", seed=0)
    assert [one.original for one in made] == rows
    changed = [one.row for one in made]
    conditions = Counter(one.condition for one in made)
    assert [one.is_clean for one in made] == [one.row == one.original for one in made]
    # binomial(240, ½) and (240, ¼): five standard deviations
    assert abs(conditions["clean"] - 120) < 39
    assert abs(conditions["blur=3px"] - 60) < 34
    kinds = {
        (old.images != new.images, old.text != new.text)
        for old, new in zip(rows, changed, strict=True)
    }
    assert kinds == {(False, False), (True, False), (False, True)}
    assert (
        sum(old.images != new.images for old, new in zip(rows, changed, strict=True))
        == conditions["blur=3px"]
    )
    assert sum(new.text.strip() == "" for new in changed) == conditions["text-blank"]
    assert [row.answers for row in changed] == [row.answers for row in rows]


def test_the_same_rows_again_with_one_seed_and_others_with_another(
    rows: list[Row], tmp_path: Path
) -> None:
    first = degraded_share(rows, MIX, 0.5, tmp_path / "images", seed=0)
    again = degraded_share(rows, MIX, 0.5, tmp_path / "images", seed=0)
    other = degraded_share(rows, MIX, 0.5, tmp_path / "images", seed=1)
    assert first == again
    assert first != other


def test_without_degradations_nothing_changes_or_is_written(
    rows: list[Row], tmp_path: Path
) -> None:
    made = degraded_share(rows, (), 0.5, tmp_path / "images", seed=0)
    assert [one.row for one in made] == rows
    assert all(one.is_clean for one in made)
    assert not (tmp_path / "images").exists()


def test_rates_of_missing_modalities_hold_and_leave_the_other_rows_as_they_were(
    rows: list[Row], tmp_path: Path
) -> None:
    assert {row.context is None for row in rows} == {True, False}
    plain = degraded_share(rows, MIX, 0.5, tmp_path / "images", seed=0)
    missing = {"image-absent": 0.3, "context-absent": 0.2}
    made = degraded_share(rows, MIX, 0.5, tmp_path / "images", seed=0, missing=missing)
    conditions = Counter(one.condition for one in made)
    with_context = sum(row.context is not None for row in rows)
    # binomial(240, 0.3), and of the rows with a context a fifth: five standard deviations
    assert abs(conditions["image-absent"] - 72) < 36
    assert abs(conditions["context-absent"] - 0.2 * with_context) < 2 * with_context**0.5
    for before, after in zip(plain, made, strict=True):
        if after.condition == "image-absent":
            assert after.row == replace(after.original, images=())
        elif after.condition == "context-absent":
            assert after.original.context is not None
            assert after.row == replace(after.original, context=None)
        else:
            assert after == before
    every = degraded_share(rows, MIX, 0.5, tmp_path, seed=0, missing={"image-absent": 1.0})
    assert all(one.condition == "image-absent" and not one.is_clean for one in every)


def test_settings_name_what_is_wrong() -> None:
    with pytest.raises(UnsupportedError, match="unknown degradation 'blurr'"):
        TuneSettings(degrade=("blurr",))
    with pytest.raises(
        DataError, match=r"degrade_share is 1\.5; it must be more than 0 and at most 1"
    ):
        TuneSettings(degrade=("blur",), degrade_share=1.5)
    assert TuneSettings(degrade=("blur",)).degrade == ("blur@3",)
    with pytest.raises(DataError, match=r"^tune: missing_image is -0\.1; it must be from 0 to 1$"):
        TuneSettings(missing_image=-0.1)
    with pytest.raises(DataError, match="missing_context is nan; it must be from 0 to 1"):
        TuneSettings(missing_context=float("nan"))
    message = "missing_image 0.6 and missing_context 0.5 are more than 1 together; a row lacks one"
    with pytest.raises(DataError, match=message):
        TuneSettings(missing_image=0.6, missing_context=0.5)
    with pytest.raises(DataError, match="with a missing_image of 1 no row is clean"):
        TuneSettings(missing_image=1, keep_clean=1.0)


def test_the_command_says_how_many_rows_it_degraded(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tuned"
    words = [
        "tune",
        str(checkpoint_path()),
        "-o",
        str(output),
        "--data",
        str(train_file),
        "--steps",
        "2",
    ]
    assert (
        main([*words, "--degrade", "blur=3px", "--degrade", "text-blank", "--degrade-share", "1"])
        == 0
    )
    report = json.loads((output / "tuning.json").read_text())
    assert sum(report["conditions"].values()) == 6
    assert "clean" not in report["conditions"]
    assert report["settings"]["degrade"] == ["blur=3px", "text-blank"]
    assert f"{report['conditions']['text-blank']} text-blank" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.training"))


@pytest.mark.parametrize("method", [None, "mmpareto", "functional-entropy"])
def test_batches_without_and_with_images_are_trained(
    method: str | None, train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tuned"
    words = ["tune", checkpoint_path(), "-o", output, "--data", train_file, "--steps", 6]
    # rows one by one: half of the batches hold no image, and nothing of theirs is routed
    words += ["--batch-size", 1, "--missing-image", 0.5, "--missing-context", 0.25]
    words += ["--balance-method", method] if method else []
    assert main([str(word) for word in words]) == 0
    report = json.loads((output / "tuning.json").read_text())
    absent = report["conditions"]["image-absent"]
    assert 0 < absent < 6
    assert f"{absent} image-absent" in capsys.readouterr().out
    before, after = (
        load_file(Path(folder) / "model.safetensors") for folder in (checkpoint_path(), output)
    )
    changed = {name for name in before if not before[name].float().equal(after[name].float())}
    assert changed
    assert all(name.startswith("moir_router.") for name in changed)
