"""Checkpoints of real geometries with seeded random weights in bfloat16, written a tensor at a time: no model is ever in memory."""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.random_families import FAMILIES, Geometry
from moir_edge.finite import json_text

__all__ = ["FAMILIES", "GEOMETRIES", "Geometry", "build_checkpoint"]

_PIECE = 1 << 22  # numbers that are made at once
_STANDARD_DEVIATION = 0.02


GEOMETRIES = {
    "0.1B": Geometry(
        hidden=512,
        layers=12,
        heads=8,
        head_width=64,
        vocabulary=65536,
        vision_hidden=384,
        vision_layers=12,
    ),
    "0.25B": Geometry(
        hidden=768,
        layers=16,
        heads=12,
        head_width=64,
        vocabulary=98304,
        vision_hidden=512,
        vision_layers=16,
    ),
    "0.5B": Geometry(
        hidden=1024,
        layers=20,
        heads=16,
        head_width=64,
        vocabulary=131072,
        vision_hidden=768,
        vision_layers=12,
    ),
    "1B": Geometry(
        hidden=1536,
        layers=24,
        heads=12,
        head_width=128,
        vocabulary=151936,
        vision_hidden=768,
        vision_layers=16,
    ),
    "2B": Geometry(
        hidden=2048,
        layers=28,
        heads=16,
        head_width=128,
        vocabulary=151936,
        vision_hidden=1024,
        vision_layers=24,
    ),
}
"""By size in parameters."""


def build_checkpoint(folder: Path, size: str, *, family: str = "internvl", seed: int = 0) -> int:
    """Write model, tokenizer and processor, and return the bytes of the weights.

    Args:
        folder: Where to; one that holds this checkpoint already is left as it is.
        size: One of `GEOMETRIES`.
        family: One of `FAMILIES`.
        seed: Of the weights.
    """
    weights = folder / "model.safetensors"
    if not (folder / "config.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        build = FAMILIES[family]
        model = _skeleton(GEOMETRIES[size], family)
        _write_weights(weights, _shapes(model), seed)
        build.write_processor(folder)
        model.config.dtype = "bfloat16"
        model.config.save_pretrained(folder)  # last: what tells a whole checkpoint
    return weights.stat().st_size


def _skeleton(sizes: Geometry, family: str) -> Any:
    """Return the model on the meta device."""
    import torch

    with torch.device("meta"):
        return FAMILIES[family].model(sizes)


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the stored tensors by name; a tied head is stored once."""
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def _write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json_text(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for at, (name, shape) in enumerate(shapes.items()):
            for piece in _numbers(name, math.prod(shape), seed + at):
                stream.write(piece)


def _numbers(name: str, count: int, seed: int) -> Iterator[bytes]:
    """Yield bfloat16 numbers: ones for the scales of norms, small normal ones for all else."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for start in range(0, count, _PIECE):
        size = min(_PIECE, count - start)
        if "norm" in name and name.endswith("weight"):
            numbers = torch.ones(size)
        else:
            numbers = torch.randn(size, generator=generator) * _STANDARD_DEVIATION
        yield numbers.to(torch.bfloat16).view(torch.int16).numpy().tobytes()
