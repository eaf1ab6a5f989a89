"""Codes of another tool are never read as numbers, whether its record is there or was lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moir_edge.checkpoint import load_checkpoint
from moir_edge.errors import UnsupportedError
from moir_edge.weights import check_files

REMEDY = "give the checkpoint in full precision, and moir-edge quantizes it at export"


@pytest.fixture
def folder(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(make_checkpoint("smolvlm"), tmp_path / "copy"))


def refused(folder: Path, said: str) -> None:
    for read in (check_files, load_checkpoint):
        with pytest.raises(UnsupportedError) as caught:
            read(folder)
        assert said in str(caught.value)
        assert str(caught.value).endswith(REMEDY)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "record", "tool"),
    [
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandb"),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "gptq"),
        ("quantization_config", {"quant_method": "awq", "bits": 4}, "awq"),
        ("quantization_config", {"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ("quantization_config", {"quant_method": "fp8"}, "fp8"),
        ("quantization_config", {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt"),
        ("quantization_config", {"bits": 4}, "another tool"),
        ("compression_config", {"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ("quantization", {"group_size": 64, "bits": 4}, "MLX"),
    ],
)
@pytest.mark.parametrize("part", [None, "text_config"])
def test_the_record_of_a_tool(
    folder: Path, entry: str, record: dict[str, Any], tool: str, part: str | None
) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config if part is None else config[part])[entry] = record
    path.write_text(json.dumps(config))
    refused(folder, f"holds weights that {tool}")


def as_float8(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: weight.to(torch.float8_e4m3fn)}


def as_float8_with_scale(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**as_float8(name, weight), f"{name}_scale_inv": torch.ones(1, 1)}


def as_integers(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: (weight * 100).to(torch.int8)}


def as_bitsandbytes(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    codes = torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8)
    return {name: codes, f"{name}.absmax": torch.zeros(16), f"{name}.quant_map": torch.zeros(16)}


def as_gptq(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    rows, columns = weight.shape
    stem = name.removesuffix("weight")
    return {
        f"{stem}qweight": torch.zeros(columns // 8, rows, dtype=torch.int32),
        f"{stem}qzeros": torch.zeros(1, rows // 8, dtype=torch.int32),
        f"{stem}scales": torch.zeros(1, rows, dtype=torch.float16),
    }


def as_mlx(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    rows, columns = weight.shape
    stem = name.removesuffix("weight")
    return {
        name: torch.zeros(rows, columns // 8, dtype=torch.uint32),
        f"{stem}scales": torch.zeros(rows, 1),
        f"{stem}biases": torch.zeros(rows, 1),
    }


@pytest.mark.parametrize(
    ("packed", "kind"),
    [
        (as_float8, "F8_E4M3"),
        (as_float8_with_scale, "F8_E4M3"),
        (as_integers, "I8"),
        (as_bitsandbytes, "U8"),
        (as_gptq, "I32"),
        (as_mlx, "U32"),
    ],
)
def test_codes_whose_record_was_lost(
    folder: Path, packed: Callable[[str, torch.Tensor], dict[str, torch.Tensor]], kind: str
) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "model.text_model.layers.0.self_attn.q_proj.weight"
    weights.update(packed(name, weights.pop(name)))
    save_file(weights, path, metadata={"format": "pt"})
    refused(folder, f"weight is stored as {kind}")


def test_floats_and_buffers_of_whole_numbers_pass(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    halves = {name: weight.bfloat16() for name, weight in weights.items()}
    positions = {"model.vision_model.embeddings.position_ids": torch.arange(4)}
    save_file({**halves, **positions}, path, metadata={"format": "pt"})
    check_files(folder)
