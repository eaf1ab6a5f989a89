"""Refuse weights that another tool quantized: by the record in config.json, and by the types in the weight files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moir_edge.errors import UnsupportedError

__all__ = ["refuse_quantized_config", "refuse_quantized_tensors"]

# Entries in which other tools write how they quantized; text and vision parts may have their own. MLX writes the last.
_RECORDS = ("quantization_config", "compression_config", "quantization")
# A weight of such a type is a code that some scale belongs to: read as a number it would be wrong in silence.
_CODES = ("F8_", "F4", "F6_", "I8", "U8", "I16", "U16", "I32", "U32")
_WEIGHTS = (
    "weight",
    "W_q",
)  # parts of the names of such tensors, besides GPTQ's and AWQ's `qweight`
_REMEDY = "give the checkpoint in full precision, and moir-edge quantizes it at export"


def refuse_quantized_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a config that says which tool quantized the weights.

    Args:
        folder: The checkpoint's folder.
        config: The object in its config.json.

    Raises:
        UnsupportedError: It, or a part of it, has such a record.
    """
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    for part in parts:
        for entry in _RECORDS:
            found = part.get(entry)
            if isinstance(found, Mapping):
                raise UnsupportedError(
                    f"{folder} holds weights that {_tool(entry, found)} quantized ({entry} in config.json); {_REMEDY}"
                )


def refuse_quantized_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Refuse a weight file in which weights are codes, whatever its config says.

    Args:
        path: The file.
        tensors: Name to entry of its header, checked.

    Raises:
        UnsupportedError: A weight is stored in a type of 8 bits or fewer, or as whole numbers.
    """
    for name, entry in tensors.items():
        kind = str(entry.get("dtype"))
        if kind.startswith(_CODES) and any(part in name for part in _WEIGHTS):
            raise UnsupportedError(
                f"{path} holds weights that another tool quantized ({name} is stored as {kind}); {_REMEDY}"
            )


def _tool(entry: str, record: Mapping[str, Any]) -> Any:
    if {"load_in_4bit", "load_in_8bit"} & set(record):
        return "bitsandbytes"  # in records older than `quant_method`
    return record.get("quant_method") or ("MLX" if entry == "quantization" else "another tool")
