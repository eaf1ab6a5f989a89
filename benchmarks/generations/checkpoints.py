"""Tiny checkpoints with random weights, of every model class and layout that the runtime answers differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CHECKPOINTS", "Layout", "build"]

_SPECIALS = ("<pad>", "<s>", "<end>", "<image>", "<fake_token_around_image>", "<global-img>")
_BOS, _EOS, _PAD, _IMAGE = 1, 2, 0, 3

_TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}{{ turn['role'] | capitalize }}:"
    "{% for part in turn['content'] %}{{ '<image>' if part['type'] == 'image' else ' ' + part['text'] }}{% endfor %}"
    "<end>\n{% endfor %}{{ 'Assistant:' if add_generation_prompt else '' }}"
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Recipe of one checkpoint.

    Attributes:
        model_type: The Hugging Face `model_type`.
        tower: `model_type` of LLaVA's vision tower; empty for the others.
        split: Cut images into tiles.
        tied: The head shares its weights with the embeddings.
        router: Attach a router with random weights.
        byte_fallback: A tokenizer built as Llama's, in place of byte-level BPE.
    """

    model_type: str
    tower: str = ""
    split: bool = False
    tied: bool = True
    router: bool = False
    byte_fallback: bool = False


CHECKPOINTS: Mapping[str, Layout] = {
    "smolvlm": Layout(model_type="smolvlm"),
    "smolvlm-split-router": Layout(model_type="smolvlm", split=True, tied=False, router=True),
    "idefics3-split": Layout(model_type="idefics3", split=True),
    "llava-clip-router": Layout(
        model_type="llava", tower="clip_vision_model", tied=False, router=True, byte_fallback=True
    ),
    "llava-siglip": Layout(model_type="llava", tower="siglip_vision_model", byte_fallback=True),
    "llava-siglip-router": Layout(model_type="llava", tower="siglip_vision_model", router=True),
}


def build(layout: Layout, folder: Path) -> Path:
    """Write a checkpoint with seeded random weights.

    Args:
        layout: What to make.
        folder: Made if it is missing.
    """
    import torch

    from moir_edge.router import RouterConfig, retrofit

    tokenizer = _tokenizer(byte_fallback=layout.byte_fallback)
    make: Callable[..., Any] = _llava if layout.model_type == "llava" else _smolvlm
    torch.manual_seed(0)
    model, processor = make(layout, tokenizer)
    if layout.router:
        retrofit(model, RouterConfig(rank=8, top_k=2), tokenizer=tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            # Far enough from the small initial values that answers vary and the router matters.
            parameter += 0.15 * torch.randn(parameter.shape)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(*, byte_fallback: bool) -> Any:
    from transformers import PreTrainedTokenizerFast

    rows = [f"<row_{row}_col_{column}>" for row in range(1, 9) for column in range(1, 9)]
    words = [*_SPECIALS, *rows]
    core = _byte_fallback(words) if byte_fallback else _byte_level(words)
    core.add_special_tokens(words)
    wrap: Any = PreTrainedTokenizerFast
    return wrap(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<end>",
        additional_special_tokens=words[3:],
        padding_side="left",
    )


def _byte_level(words: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: at for at, word in enumerate([*words, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


def _byte_fallback(words: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    letters = [chr(code) for code in range(33, 127)]
    pieces = [*words, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "▁"]
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    core = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return core


def _text(vocabulary: int, *, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tied,
        "bos_token_id": _BOS,
        "eos_token_id": _EOS,
        "pad_token_id": _PAD,
    }


_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 24,
}


def _smolvlm(layout: Layout, tokenizer: Any) -> tuple[Any, Any]:
    import transformers
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    kind = {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}[layout.model_type]
    config = getattr(transformers, f"{kind}Config")(
        vision_config={**_TOWER, "patch_size": 6},
        text_config=_text(len(tokenizer), tied=layout.tied),
        image_token_id=_IMAGE,
        scale_factor=2,
        tie_word_embeddings=layout.tied,
        pad_token_id=_PAD,
    )
    images = SmolVLMImageProcessorPil(
        do_image_splitting=layout.split,
        size={"longest_edge": 72 if layout.split else 24},
        max_image_size={"longest_edge": 24},
    )
    processor = transformers.Idefics3Processor(
        images, tokenizer, image_seq_len=4, chat_template=_TEMPLATE
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def _llava(layout: Layout, tokenizer: Any) -> tuple[Any, Any]:
    import transformers as untyped
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    transformers: Any = untyped
    clip = layout.tower == "clip_vision_model"
    strategy = "default" if clip else "full"
    config = transformers.LlavaConfig(
        vision_config={**_TOWER, "model_type": layout.tower, "patch_size": 12},
        text_config=_text(len(tokenizer), tied=layout.tied),
        image_token_id=_IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy=strategy,
        tie_word_embeddings=layout.tied,
    )
    side = {"height": 24, "width": 24}
    images = (
        CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=side)
        if clip
        else SiglipImageProcessorPil(size=side)
    )
    processor = transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=12,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(clip),
        chat_template=_TEMPLATE,
    )
    return transformers.LlavaForConditionalGeneration(config), processor
