"""Checkpoints that are not whole are told from their files, before a weight is read."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moir_edge.errors import DataError, UnsupportedError
from moir_edge.weights import check_files, resolve_checkpoint, weights_sha256


@pytest.fixture(scope="module")
def source(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("smolvlm")


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "copy"))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_whole_checkpoint_gives_its_config(folder: Path) -> None:
    assert check_files(folder)["model_type"] == "smolvlm"


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ("[]", "names no model_type"), ("{}", "names no model_type")],
)
def test_broken_config(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(DataError, match=message):
        check_files(folder)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a checkpoint: it has no config\.json"):
        check_files(tmp_path)


@pytest.mark.parametrize("kept", [100, 4, 0])
def test_weights_without_a_whole_header(folder: Path, kept: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"model\.safetensors is truncated or is not a safetensors"):
        check_files(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"a": {"data_offsets": []}}',
        b'{"a": {"data_offsets": ["x", "y"]}}',
        b'{"a": {}}',
        b"[]",
        b'"\xff"',
    ],
)
def test_a_header_of_another_shape(folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(DataError, match=r"is truncated or is not a safetensors file"):
        check_files(folder)


def test_the_length_of_a_header_is_not_believed(folder: Path) -> None:
    weights = folder / "model.safetensors"
    with weights.open("r+b") as stream:
        stream.write(struct.pack("<Q", 1 << 40))
        stream.truncate(1 << 33)  # sparse: it takes no room on the disk
    with pytest.raises(DataError, match=r"is truncated or is not a safetensors file"):
        check_files(folder)


def test_shards_lie_in_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../outside.safetensors"}})
    )
    with pytest.raises(DataError, match=r"'\.\./outside\.safetensors', which is not a plain file"):
        check_files(folder)


def test_weights_that_lack_their_last_bytes(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    size = f"{len(whole) - 10:,} bytes and its header describes {len(whole):,}"
    with pytest.raises(DataError, match=f"truncated: it has {size}; copy the checkpoint again"):
        check_files(folder)


def test_pointer_in_place_of_the_weights(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 538090408\n"
    (folder / "model.safetensors").write_text(pointer)
    with pytest.raises(DataError, match="is a Git LFS pointer and holds no weights"):
        check_files(folder)


def test_shard_that_the_index_names_is_missing(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    message = "names 2 weight files and 1 of them are missing, the first is model-00002-of-00002"
    with pytest.raises(DataError, match=message):
        check_files(folder)
    index.unlink()
    with pytest.raises(DataError, match=r"has neither model\.safetensors nor model\.safe"):
        check_files(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"holds no \*\.safetensors file; save the weights"):
        check_files(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(DataError, match=r"\(only pytorch_model\.bin, which could run code"):
        check_files(folder)


def test_adapter_in_place_of_merged_weights(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "team/base"}')
    message = (
        r"holds an adapter \(adapter_config\.json\) for team/base, not merged weights; merge it"
    )
    with pytest.raises(DataError, match=message):
        check_files(folder)
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match=message):
        check_files(folder)


@pytest.mark.parametrize(
    ("record", "tool"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({}, "another tool"),
    ],
)
def test_weights_that_another_tool_quantized(
    folder: Path, record: dict[str, Any], tool: str
) -> None:
    message = f"holds weights that {tool} quantized.*give the checkpoint in full precision"
    edit_config(folder, quantization_config=record)
    with pytest.raises(UnsupportedError, match=message):
        check_files(folder)
    edit_config(folder, quantization_config=None, text_config={"quantization_config": record})
    with pytest.raises(UnsupportedError, match=message):
        check_files(folder)


def test_hash_follows_the_weights(source: Path, folder: Path) -> None:
    assert weights_sha256(folder) == weights_sha256(source)
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x7f")
    assert weights_sha256(folder) != weights_sha256(source)


def test_neither_folder_nor_hub_id(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a checkpoint folder"):
        resolve_checkpoint(tmp_path / "absent" / "deep" / "down")


def test_unreachable_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="neither a folder nor a hub checkpoint"):
        resolve_checkpoint("moir-edge/no-such-checkpoint")
