"""Files around the graphs, also where a processor's class cannot be built."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moir_edge.errors import DataError
from moir_edge.export.assets import write_assets
from moir_edge.export.checkpoints import Checkpoint, load_checkpoint


@pytest.fixture(scope="module")
def folder(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("smolvlm")


def cannot_build(*_: Any, **__: Any) -> None:
    raise ImportError("Package `num2words` is required to run SmolVLM processor.")


def load(folder: Path, tmp_path: Path) -> Checkpoint:
    shutil.copytree(folder, tmp_path / "source")
    (tmp_path / "bundle").mkdir()
    return load_checkpoint(tmp_path / "source")


def test_tokenizer_is_written_without_indentation(folder: Path, tmp_path: Path) -> None:
    write_assets(load(folder, tmp_path), tmp_path / "bundle")
    ours, theirs = tmp_path / "bundle" / "tokenizer.json", folder / "tokenizer.json"
    assert json.loads(ours.read_text())["model"] == json.loads(theirs.read_text())["model"]
    assert ours.stat().st_size < theirs.stat().st_size


def test_processor_that_cannot_be_built_is_copied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load(folder, tmp_path)
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", cannot_build)
    write_assets(checkpoint, tmp_path / "bundle")
    name = "processor_config.json"
    assert (tmp_path / "bundle" / name).read_bytes() == (folder / name).read_bytes()


def test_checkpoint_without_a_processor_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load(folder, tmp_path)
    (checkpoint.folder / "processor_config.json").unlink()
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", cannot_build)
    with pytest.raises(DataError, match=r"neither processor_config\.json nor preprocessor_config"):
        write_assets(checkpoint, tmp_path / "bundle")
