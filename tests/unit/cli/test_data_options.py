"""The flags that name a data set, on a command that reads its rows before it loads a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moir_edge.cli.data_options import data_source, parse_columns
from moir_edge.cli.main import main
from moir_edge.errors import DataError


def test_columns() -> None:
    options = ["prompt=query", "images=left,right"]
    assert parse_columns(options, "--data-column") == {"prompt": "query", "images": "left,right"}
    with pytest.raises(DataError, match="--calib-column 'prompt': expected ROLE=COLUMN, as prompt"):
        parse_columns(["prompt"], "--calib-column")
    with pytest.raises(DataError, match="--data-column prompt= is given twice"):
        parse_columns(["prompt=a", "prompt=b"], "--data-column")


def test_source_has_every_flag() -> None:
    source = data_source(
        Path("user/name"),
        "hub",
        prompt="{text} One word.",
        split="train",
        subset="all",
        columns=["prompt=query"],
        task="vqa",
    )
    assert (source.path.as_posix(), source.split, source.subset) == ("user/name", "train", "all")
    assert (source.columns, source.task) == ({"prompt": "query"}, "vqa")
    assert source.prompt == "{text} One word."


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
