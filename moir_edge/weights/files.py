"""Check a checkpoint's files before a weight is read: missing, truncated or foreign."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from moir_edge.arguments import given_path
from moir_edge.checked import checked
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.json_files import read_json
from moir_edge.limits import INDEX_BYTES, SAFETENSORS_HEADER_BYTES
from moir_edge.weights.foreign import describe_folder
from moir_edge.weights.quantized import refuse_quantized_config, refuse_quantized_tensors

__all__ = ["check_files", "check_record", "check_weights", "stored_types", "weight_files"]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_POINTER = b"version https://git-lfs"


@checked(folder=given_path)
def check_files(folder: Path) -> dict[str, Any]:
    """Refuse a checkpoint that is not whole, as far as its files tell; see `check_record` and `check_weights`.

    Returns:
        The object in its config.json.
    """
    config = check_record(folder)
    check_weights(folder)
    return config


def check_record(folder: Path) -> dict[str, Any]:
    """Refuse a folder whose config.json is not that of a whole model in full precision.

    Args:
        folder: The checkpoint's folder.

    Returns:
        The object in its config.json.

    Raises:
        DataError: There is none, it names no `model_type`, or an adapter stands in place of merged weights.
        UnsupportedError: Another tool quantized the weights, or they lie in a file of another name.
    """
    _check_adapter(folder)
    if not (folder / "config.json").is_file():
        found = describe_folder(folder) or "it has no config.json"
        raise DataError(f"{folder} is not a checkpoint: {found}")
    config = _config(folder / "config.json")
    if config.get("transformers_weights") is not None:
        raise UnsupportedError(
            f"{folder / 'config.json'} names a weight file of its own (transformers_weights); "
            f"name the file {WEIGHTS} and take the entry out"
        )
    refuse_quantized_config(folder, config)
    return config


def check_weights(folder: Path) -> None:
    """Refuse weight files that are missing or truncated; no tensor is read.

    Args:
        folder: The checkpoint's folder.

    Raises:
        DataError: A file is missing or shorter than its header says.
    """
    for path in weight_files(folder):
        _check_safetensors(path)


@checked(folder=given_path)
def stored_types(folder: Path, *, beside: str = "") -> set[str]:
    """Return the types of the weights as safetensors spells them, such as ``BF16``; no tensor is read.

    Args:
        folder: The checkpoint's folder, after `check_weights`.
        beside: Tensors whose name begins so are left out; empty counts all.
    """
    found = set()
    for path in weight_files(folder):
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            tensors = json.loads(stream.read(length))
        names = (name for name in tensors if name[:2] != "__")
        found |= {
            str(tensors[name]["dtype"])
            for name in names
            if not (beside and name.startswith(beside))
        }
    return found


def _config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        found = describe_folder(path.parent, nested=False) or "save the model with save_pretrained"
        raise DataError(f"{path} names no model_type; {found}")
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the files that `from_pretrained` reads weights from.

    Raises:
        DataError: There are none, or the index names one that is missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder)
    if found := describe_folder(folder, nested=False):
        raise DataError(f"{folder} has no weights that transformers reads: {found}")
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        raise DataError(
            f"{folder} has neither {WEIGHTS} nor {INDEX} (only {others[0]}); "
            "copy the file that is missing, or save the model with save_pretrained"
        )
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    found = f" (only {pickled[0]}, which could run code when it is read)" if pickled else ""
    raise DataError(f"{folder} holds no *.safetensors file{found}; save the weights as safetensors")


def _shards(folder: Path) -> list[Path]:
    index = read_json(folder / INDEX, most_bytes=INDEX_BYTES)
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or not named:
        raise DataError(f"{folder / INDEX} has no weight_map; copy the checkpoint again")
    files = sorted({str(name) for name in named.values()})
    for name in files:
        if Path(name).name != name:
            raise DataError(
                f"{folder / INDEX} names the weight file {name!r}, which is not a plain file name; copy the checkpoint again"
            )
    missing = [name for name in files if not os.path.isfile(folder / name)]
    if missing:
        raise DataError(
            f"{folder} is incomplete: {INDEX} names {len(files)} weight files and "
            f"{len(missing)} of them are missing, the first is {missing[0]}; copy the checkpoint again"
        )
    return [folder / name for name in files]


def _check_adapter(folder: Path) -> None:
    path = folder / ADAPTER
    if not path.is_file():
        return
    adapter = read_json(path)
    base = adapter.get("base_model_name_or_path") if isinstance(adapter, dict) else None
    raise DataError(
        f"{folder} holds an adapter ({ADAPTER}) for {base or 'another model'}, not merged weights; "
        "merge it (merge_and_unload, then save_pretrained into an empty folder) and give that folder"
    )


def _check_safetensors(path: Path) -> None:
    """Compare a file's length with what its header says, without reading a tensor."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        if (start + stream.read(len(_POINTER) - 8)) == _POINTER:
            raise DataError(
                f"{path} is a Git LFS pointer and holds no weights; fetch them with `git lfs pull`"
            )
        stream.seek(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        # A longer header is none: the reader of safetensors has the same bound.
        header = stream.read(length) if length <= SAFETENSORS_HEADER_BYTES else b""
    try:
        tensors = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name[:2] != "__"]
        needed = 8 + len(header) + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} is truncated or is not a safetensors file ({size:,} bytes); "
            "copy the checkpoint again"
        ) from error
    if size < needed:
        raise DataError(
            f"{path} is truncated: it has {size:,} bytes and its header describes {needed:,}; "
            "copy the checkpoint again"
        )
    refuse_quantized_tensors(path, {name: tensors[name] for name in tensors if name[:2] != "__"})
