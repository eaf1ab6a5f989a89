"""Whatever a library raises over a file is one line that names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from moir_edge.checkpoint import load_checkpoint
from moir_edge.demo import checkpoint_path
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.weights.libraries import naming_files


@pytest.mark.parametrize("error", [Exception("a\nb"), KeyError("key"), ArithmeticError("no")])
def test_any_exception_is_named(error: Exception) -> None:
    with pytest.raises(DataError) as caught, naming_files("file.json cannot be used", "; copy it"):
        raise error
    assert str(caught.value).startswith("file.json cannot be used: ")
    assert str(caught.value).endswith("; copy it")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError(), UnsupportedError("own"), KeyboardInterrupt()])
def test_own_errors_memory_and_interrupts_go_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, naming_files("file.json cannot be used"):
        raise error
    assert caught.value is error


def _set(file: str, *keys: str, value: Any) -> Any:
    def spoil(folder: Path) -> None:
        path = folder / file
        record = json.loads(path.read_text())
        inner = record
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        path.write_text(json.dumps(record))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_set("config.json", "text_config", "hidden_act", value=3), "config.json cannot be used: "),
        (_set("tokenizer.json", "model", "merges", value=[["a", "no such"]]), ": its tokenizer cannot be loaded: "),
        (_set("generation_config.json", "pad_token_id", value=[0]), " cannot be loaded: "),
        (
            _set("config.json", "moir_router", "special_token_ids", value=[[1]]),
            "router config: special_token_ids: expected a list of token ids, got [[1]]; config.json was edited by hand",
        ),
    ],
)  # fmt: skip
def test_a_setting_of_another_type_is_one_line(tmp_path: Path, spoil: Any, message: str) -> None:
    folder = shutil.copytree(checkpoint_path(), tmp_path / "checkpoint")
    spoil(folder)
    with pytest.raises(DataError) as caught:
        load_checkpoint(folder)
    assert message in str(caught.value)


def test_an_end_token_of_another_type_is_one_line(tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint_path(), tmp_path / "checkpoint")
    _set("generation_config.json", "eos_token_id", value=2.5)(folder)
    with pytest.raises(DataError, match=r"eos_token_id is 2\.5; it must be a token id or a list"):
        _ = load_checkpoint(folder).end_ids
