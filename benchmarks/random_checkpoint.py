"""Checkpoints of real geometries with seeded random weights in bfloat16, written a tensor at a time: no model is ever in memory."""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moir_edge.finite import json_text

__all__ = ["GEOMETRIES", "Geometry", "build_checkpoint"]

_PIECE = 1 << 22  # numbers that are made at once
_STANDARD_DEVIATION = 0.02


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of an InternVL whose decoder is Qwen3's; the largest is that of InternVL3.5-2B.

    Attributes:
        hidden: Width of the decoder.
        layers: Of the decoder.
        heads: Query heads; half as many keys.
        head_width: Of one head.
        vocabulary: Rows of the embedding table, which the head shares.
        vision_hidden: Width of the tower.
        vision_layers: Of the tower.
    """

    hidden: int
    layers: int
    heads: int
    head_width: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int


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


def build_checkpoint(folder: Path, size: str, *, seed: int = 0) -> int:
    """Write model, tokenizer and processor, and return the bytes of the weights.

    Args:
        folder: Where to; one that holds this checkpoint already is left as it is.
        size: One of `GEOMETRIES`.
        seed: Of the weights.
    """
    weights = folder / "model.safetensors"
    if not (folder / "config.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = _skeleton(GEOMETRIES[size])
        _write_weights(weights, _shapes(model), seed)
        _write_processor(folder)
        model.config.dtype = "bfloat16"
        model.config.save_pretrained(folder)  # last: what tells a whole checkpoint
    return weights.stat().st_size


def _skeleton(sizes: Geometry) -> Any:
    """Return the model on the meta device."""
    import torch
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    config = InternVLConfig(
        vision_config={
            "hidden_size": sizes.vision_hidden,
            "intermediate_size": 4 * sizes.vision_hidden,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.vision_hidden // 64,
            "image_size": [448, 448],
            "patch_size": [14, 14],
        },
        text_config={
            "model_type": "qwen3",
            "hidden_size": sizes.hidden,
            "intermediate_size": 3 * sizes.hidden,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.heads // 2,
            "head_dim": sizes.head_width,
            "vocab_size": sizes.vocabulary,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
        },
        image_token_id=3,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        return InternVLForConditionalGeneration(config)


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


def _write_processor(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    names = ["<pad>", "<bos>", "<eos>", "<image>", "<img>", "</img>", "<video>"]
    names += sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={name: at for at, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<image>",
        "video_token": "<video>",
    }
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>", **named},
    ).save_pretrained(folder)
    images = GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, max_patches=12)
    record = {
        "processor_class": "InternVLProcessor",
        "image_seq_length": 256,
        "image_processor": images.to_dict(),
    }
    (folder / "processor_config.json").write_text(json_text(record))
    template = (
        "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n"
        "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
