"""A checkpoint of the true geometry of SmolVLM-256M with seeded random weights: its speed is real, its answers are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.demo_training.build import (
    BOS,
    EOS,
    GLOBAL_IMAGE,
    IMAGE,
    IMAGE_EDGE,
    PAD,
    build_processor,
    build_smolvlm,
    wrap_tokenizer,
)

__all__ = ["PROMPT", "PROMPT_TOKENS", "build_checkpoint", "vocabulary"]

VOCABULARY_SIZE = 49280
IMAGE_SIZE = 512
PATCH_SIZE = 16
SCALE_FACTOR = 4
LAYERS = 30
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE // SCALE_FACTOR) ** 2

PROMPT = "Tell me"
"""What is asked: one token per byte, seven in all."""

PROMPT_TOKENS = 92
"""The prompt in tokens: 64 of the image, 7 of the question and 21 of the chat template."""


def vocabulary(size: int = VOCABULARY_SIZE) -> dict[str, int]:
    """Return special tokens, one token per byte, and words that fill up to `size` and that no text is encoded to.

    Args:
        size: Number of entries.
    """
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [PAD, BOS, EOS, IMAGE, IMAGE_EDGE, GLOBAL_IMAGE, *alphabet]
    names += [f"word{at}" for at in range(len(names), size)]
    return {name: at for at, name in enumerate(names)}


def build_checkpoint(folder: Path, *, seed: int = 0, layers: int = LAYERS) -> None:
    """Write model, router, tokenizer and processor, as `from_pretrained` reads them.

    Args:
        folder: Where to.
        seed: Of the weights.
        layers: Of the text decoder; 30 is the true number.
    """
    import torch

    from moir_edge.router import retrofit

    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    model = _model(tokenizer, layers)
    retrofit(model, tokenizer=tokenizer)
    model.save_pretrained(folder)
    processor = build_processor(tokenizer, image_size=IMAGE_SIZE, image_tokens=IMAGE_TOKENS)
    processor.save_pretrained(folder)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    core = Tokenizer(models.BPE(vocab=vocabulary(), merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return wrap_tokenizer(core, max_length=8192)


def _model(tokenizer: Any, layers: int) -> Any:
    """Build the model.

    Source: config.json of HuggingFaceTB/SmolVLM-256M-Instruct.
    """
    return build_smolvlm(
        tokenizer,
        scale_factor=SCALE_FACTOR,
        vision={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
        },
        text={
            "vocab_size": VOCABULARY_SIZE,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": layers,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "max_position_embeddings": 8192,
        },
    )
