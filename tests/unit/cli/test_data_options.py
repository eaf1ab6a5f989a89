"""The flags that name a data set, on a command that reads its rows before it loads a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moir_edge.cli.data_options import DataFlags, parse_columns
from moir_edge.cli.main import main
from moir_edge.errors import DataError, UnsupportedError


def test_columns() -> None:
    options = ["prompt=query", "images=left,right"]
    assert parse_columns(options, "--data-column") == {"prompt": "query", "images": "left,right"}
    with pytest.raises(
        DataError, match="--calib-column 'prompt': expected ROLE=COLUMN, such as prompt"
    ):
        parse_columns(["prompt"], "--calib-column")
    with pytest.raises(DataError, match="--data-column prompt= is given twice"):
        parse_columns(["prompt=a", "prompt=b"], "--data-column")


def test_source_has_every_flag() -> None:
    flags = DataFlags(
        path=Path("user/name"),
        format="hub",
        prompt="{text} One word.",
        split="train",
        subset="all",
        columns=["prompt=query"],
        task="vqa",
    )
    source = flags.source()
    assert (source.path.as_posix(), source.split, source.subset) == ("user/name", "train", "all")
    assert (source.columns, source.task) == ({"prompt": "query"}, "vqa")
    assert source.prompt == "{text} One word."


def test_flags_without_data() -> None:
    assert DataFlags(format="jsonl").optional_source() is None
    with pytest.raises(UnsupportedError, match=r"^nothing without `data`; add it$"):
        DataFlags().source()
    lone = DataFlags(argument="calibration.data", split="train", task="vqa")
    for read in (lone.source, lone.optional_source, lambda: lone.in_place_of(None)):
        with pytest.raises(UnsupportedError) as caught:
            read()
        assert str(caught.value) == (
            "`calibration.data.split` and `calibration.data.task` without `calibration.data`; add it"
        )


def test_evaluation_data_are_as_the_others_unless_they_say_so(tmp_path: Path) -> None:
    first = DataFlags(
        path=Path("user/name"), format="hub", split="train", prompt="{text} Now."
    ).source()
    own = DataFlags(argument="eval_data", path=tmp_path, split="test").in_place_of(first)
    assert own is not None
    assert (own.format, own.split, own.prompt) == ("hub", "test", "{text} Now.")
    assert own.field_name("split") == "`eval_data.split`"
    other = DataFlags(argument="eval_data", path=tmp_path, format="jsonl").in_place_of(first)
    assert other is not None
    assert (other.format, other.prompt, other.answers) == ("jsonl", None, False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "has several splits: give --data-split with one of train, validation"),
        (["--data-split", "dev"], "has no split 'dev': give --data-split with one of train"),
        (["--data-split", "train", "--data-column", "prompt=text"], "no column 'text' for --data-"),
        (["--data-split", "train", "--images", "."], "the format hub takes no --images"),
        (["--data-split", "train"], "no row has answers, so nothing can be scored"),
    ],
)
def test_hub_data_sets_on_the_command_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra hub")
    datasets.disable_progress_bars()
    picture = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    features = datasets.Features({"image": datasets.Image(), "question": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": [picture], "question": ["What?"]}, features)
    folder = tmp_path / "table"
    folder.mkdir()
    for split in ("train", "validation"):
        table.to_parquet(str(folder / f"{split}.parquet"))
    words = ["diagnose", "nowhere", "--data", str(folder), "--data-format", "hub", *flags]
    assert main([*words, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
