"""Loading: facts that come out, and one clear line for what cannot be loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moir_edge.errors import DataError, UnsupportedError
from moir_edge.export.checkpoints import load_checkpoint, resolve_checkpoint, weights_sha256
from moir_edge.export.facts import model_facts


@pytest.fixture(scope="module")
def folder(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("smolvlm")


def test_facts_of_a_smolvlm(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    facts = model_facts(checkpoint)
    assert checkpoint.source.architecture == "SmolVLMForConditionalGeneration"
    assert checkpoint.router is None
    assert facts.model_dump(exclude={"model_type"}) == {
        "hidden_size": 32,
        "num_layers": 2,
        "num_kv_heads": 2,
        "head_dim": 8,
        "vocab_size": 262,
        "context_length": 256,
        "image_token_id": 3,
        "eos_token_ids": (2,),
        "pad_token_id": 0,
        "special_token_ids": (0, 1, 2, 3, 4, 5),
        "newline_token_ids": tuple(
            checkpoint.tokenizer("\n\r", add_special_tokens=False)["input_ids"]
        ),
        "image_size": 32,
        "tokens_per_tile": 4,
        "image_grid": {"side": 2, "first": 0, "cell": 0.5},
    }


def test_special_tokens_of_a_retrofitted_checkpoint_are_those_it_was_tuned_with(
    make_checkpoint: Callable[..., Path],
) -> None:
    source = make_checkpoint("smolvlm", router=True)
    config = json.loads((source / "config.json").read_text())
    config["moir_router"]["special_token_ids"] = [7, 1]
    (source / "config.json").write_text(json.dumps(config))
    checkpoint = load_checkpoint(source)
    assert checkpoint.router is not None
    assert model_facts(checkpoint).special_token_ids == (1, 7)


def test_hash_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert weights_sha256(copy) == weights_sha256(folder)
    with (copy / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x7f")
    assert weights_sha256(copy) != weights_sha256(folder)


def write_config(folder: Path, content: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )
    return folder


def test_language_model_is_refused_by_its_type(tmp_path: Path) -> None:
    bert = write_config(tmp_path / "bert", {"model_type": "bert"})
    with pytest.raises(
        UnsupportedError, match=r"'bert' is no vision-language model.*llava, smolvlm"
    ):
        load_checkpoint(bert)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ([], "names no model_type"), ({}, "names no model_type")],
)
def test_broken_config(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_checkpoint(write_config(tmp_path / "broken", content))


def test_truncated_weights(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DataError, match="copy cannot be loaded"):
        load_checkpoint(copy)


def test_no_weights(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(DataError, match="copy"):
        load_checkpoint(copy)


def test_neither_folder_nor_hub_id(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no checkpoint folder"):
        resolve_checkpoint(tmp_path / "absent" / "deep" / "down")
    with pytest.raises(DataError, match=r"has no config\.json"):
        resolve_checkpoint(tmp_path)


def test_unreachable_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="neither a folder nor a hub checkpoint"):
        resolve_checkpoint("moir-edge/no-such-checkpoint")
