"""Files around the graphs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from moir_edge.checkpoint import Checkpoint, load_checkpoint
from moir_edge.errors import DataError
from moir_edge.export.assets import write_assets


@pytest.fixture(scope="module")
def folder(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("smolvlm")


def load(folder: Path, tmp_path: Path) -> Checkpoint:
    shutil.copytree(folder, tmp_path / "source")
    (tmp_path / "bundle").mkdir()
    return load_checkpoint(tmp_path / "source")


def test_tokenizer_is_written_without_indentation(folder: Path, tmp_path: Path) -> None:
    write_assets(load(folder, tmp_path), tmp_path / "bundle")
    ours, theirs = tmp_path / "bundle" / "tokenizer.json", folder / "tokenizer.json"
    assert json.loads(ours.read_text())["model"] == json.loads(theirs.read_text())["model"]
    assert ours.stat().st_size < theirs.stat().st_size


def test_checkpoint_without_a_processor_is_refused_before_its_weights_are_read(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "source")
    (tmp_path / "source" / "processor_config.json").unlink()
    with pytest.raises(DataError, match=r"neither processor_config\.json nor preprocessor_config"):
        load_checkpoint(tmp_path / "source")
