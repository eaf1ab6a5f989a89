"""Tiny models of every family that export knows: the real classes, processors and tokenizers, with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.unit.conftest import SPECIALS, TEXT, build_llava, build_smolvlm, byte_tokens

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 8,
}
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def build_tokenizer(**named: str) -> Any:
    """Return a byte-level tokenizer without merges: specials, then the 256 bytes.

    Args:
        named: Further special tokens by the name that a processor looks them up by.
    """
    from transformers import PreTrainedTokenizerFast

    specials = [*SPECIALS, *(token for token in named.values() if token not in SPECIALS)]
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_tokens(specials),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<end_of_utterance>",
        extra_special_tokens={"image_token": "<image>", **named},
    )


@dataclass(frozen=True)
class Tiny:
    """A tiny model and the parts of its processor.

    Attributes:
        model: Of the real class.
        tokenizer: A fast tokenizer.
        images: The Pillow image processor.
        record: The rest of `processor_config.json`.
        image: What the chat template writes for an image.
    """

    model: Any
    tokenizer: Any
    images: Any
    record: dict[str, Any]
    image: str = "<image>"


def _tiled(model_type: str, name: str) -> Tiny:
    module = import_module(f"transformers.models.{model_type}.image_processing_pil_{model_type}")
    images = getattr(module, f"{name}ImageProcessorPil")(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    tokenizer = build_tokenizer()
    model = build_smolvlm(len(tokenizer), model_type=model_type)
    record = {"processor_class": f"{name}Processor", "image_seq_len": 4}
    return Tiny(model, tokenizer, images, record)


def _clip_images() -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = {"height": 24, "width": 24}
    return CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=size)


_LLAVA_RECORD = {
    "processor_class": "LlavaProcessor",
    "patch_size": 8,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}


def _llava() -> Tiny:
    tokenizer = build_tokenizer()
    return Tiny(build_llava(len(tokenizer)), tokenizer, _clip_images(), _LLAVA_RECORD)


def _vipllava() -> Tiny:
    from transformers import VipLlavaConfig, VipLlavaForConditionalGeneration

    tokenizer = build_tokenizer()
    config = VipLlavaConfig(
        vision_config={**TOWER, "model_type": "clip_vision_model", "projection_dim": 16},
        text_config={**TEXT, "vocab_size": len(tokenizer)},
        image_token_id=3,
        vision_feature_layers=[-2, 1],
    )
    model = VipLlavaForConditionalGeneration(config)
    return Tiny(model, tokenizer, _clip_images(), _LLAVA_RECORD)


_CANVASES = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]


def _fast_vlm() -> Tiny:
    from moir_edge.weights.timm_towers import prepare_timm

    vision: dict[str, Any] = {
        "model_type": "timm_wrapper",
        "architecture": "fastvit_mci3",
        "hidden_size": 64,  # twice the width of the last stage
        "model_args": {
            "inference_mode": True,
            "layers": [1, 1, 3, 1, 1],
            "embed_dims": [4, 4, 8, 32, 32],
        },
    }
    prepare_timm("tiny", {"vision_config": vision})
    from transformers import FastVlmConfig, FastVlmForConditionalGeneration
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = build_tokenizer()
    config = FastVlmConfig(
        vision_config=vision,
        text_config={**TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer)},
        image_token_id=3,
        image_seq_length=4,
    )
    size = {"height": 128, "width": 128}
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 128}, crop_size=size, image_mean=[0.0] * 3, image_std=[1.0] * 3
    )
    record = {"processor_class": "LlavaProcessor", "patch_size": 64}
    return Tiny(FastVlmForConditionalGeneration(config), tokenizer, images, record)


def _llava_next() -> Tiny:
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    tokenizer = build_tokenizer()
    config = LlavaNextConfig(
        vision_config={**TOWER, "model_type": "clip_vision_model", "projection_dim": 16},
        text_config={**TEXT, "vocab_size": len(tokenizer)},
        image_token_id=3,
        image_grid_pinpoints=_CANVASES,
    )
    size = {"height": 24, "width": 24}
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 24}, crop_size=size, image_grid_pinpoints=_CANVASES
    )
    record = {**_LLAVA_RECORD, "processor_class": "LlavaNextProcessor"}
    return Tiny(LlavaNextForConditionalGeneration(config), tokenizer, images, record)


def _llava_onevision() -> Tiny:
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    tokenizer = build_tokenizer(video_token="<video>")
    edges = range(24, 97, 24)
    canvases = [[height, width] for height in edges for width in edges]
    config = LlavaOnevisionConfig(
        vision_config={**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False},
        text_config={**TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer)},
        image_token_id=3,
        video_token_index=len(SPECIALS),
        image_grid_pinpoints=canvases,
        vision_feature_layer=[-1, 1],
        vision_aspect_ratio="anyres_max_3",
    )
    images = LlavaOnevisionImageProcessorPil(
        size={"height": 24, "width": 24}, image_grid_pinpoints=canvases
    )
    record = {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": 9,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_3",
    }
    return Tiny(LlavaOnevisionForConditionalGeneration(config), tokenizer, images, record)


def _internvl() -> Tiny:
    from transformers import InternVLConfig, InternVLForConditionalGeneration
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tokenizer = build_tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<image>",
        video_token="<video>",
    )
    config = InternVLConfig(
        vision_config={**TOWER, "image_size": [32, 32], "patch_size": [8, 8]},
        text_config={**TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer)},
        image_token_id=3,
        downsample_ratio=0.5,
    )
    images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=5)
    record = {"processor_class": "InternVLProcessor", "image_seq_length": 4}
    return Tiny(InternVLForConditionalGeneration(config), tokenizer, images, record)


def _granite_docling() -> Tiny:
    from transformers import GraniteDoclingConfig, GraniteDoclingForConditionalGeneration
    from transformers.models.granite_docling.image_processing_pil_granite_docling import (
        GraniteDoclingImageProcessorPil,
    )

    tokenizer = build_tokenizer()
    vision = {"image_size": 32, "out_hidden_size": TEXT["hidden_size"], "scale_factor": 2}
    config = GraniteDoclingConfig(
        vision_config={**TOWER, **vision, "deepstack_visual_indexes": [0, 2]},
        text_config={
            **TEXT,
            "model_type": "granite_docling_text",
            "vocab_size": len(tokenizer),
            "embedding_multiplier": 1.5,
            "residual_multiplier": 0.8,
            "attention_multiplier": 0.3,
        },
        image_token_id=3,
    )
    # Wide pictures that few tiles would shrink get more of them.
    images = GraniteDoclingImageProcessorPil(
        size={"height": 32, "width": 32},
        max_patches=4,
        dense_max_patches=6,
        dense_max_scale=0.9,
        dense_min_aspect=1.2,
    )
    record = {"processor_class": "GraniteDoclingProcessor", "image_seq_len": 4}
    return Tiny(GraniteDoclingForConditionalGeneration(config), tokenizer, images, record)


def _qwen2_vl() -> Tiny:
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    return _qwen("Qwen2VL", vision, [1, 1, 2])


def _qwen2_5_vl() -> Tiny:
    vision = {"depth": 3, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2}
    # Windows of two blocks, which an odd number of them does not fit.
    windows = {
        "patch_size": 4,
        "out_hidden_size": 32,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    return _qwen("Qwen2_5_VL", {**vision, **windows}, [2, 1, 1])


def _qwen3_vl() -> Tiny:
    vision = {"depth": 3, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2}
    # Fewer positions than a large image has rows of patches, and taps that are not in order.
    taps = {
        "patch_size": 4,
        "out_hidden_size": 32,
        "num_position_embeddings": 9,
        "deepstack_visual_indexes": [2, 1],
    }
    return _qwen("Qwen3VL", {**vision, **taps}, [2, 1, 1], head_dim=8)


def _qwen(name: str, vision: dict[str, Any], sections: list[int], **text_options: Any) -> Tiny:
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    around = {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    tokenizer = build_tokenizer(**around, video_token="<|video_pad|>")
    rotary = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": sections}
    text = {key: value for key, value in TEXT.items() if key != "model_type"}
    config = getattr(transformers, f"{name}Config")(
        vision_config=vision,
        text_config={
            **text,
            **text_options,
            "vocab_size": len(tokenizer),
            "rope_parameters": rotary,
        },
        image_token_id=3,
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    images = Qwen2VLImageProcessorPil(
        patch_size=4, size={"shortest_edge": 256, "longest_edge": 1600}
    )
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    record = {"processor_class": f"{name}Processor"}
    return Tiny(model, tokenizer, images, record, "<|vision_start|><image><|vision_end|>")


_GEMMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "query_pre_attn_scalar": 20,
    "sliding_window": 13,  # prompts cross it, and so do the tokens of one image
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# Wide enough that its weights are worth quantizing.
_SIGLIP = {
    **TOWER,
    "model_type": "siglip_vision_model",
    "intermediate_size": 96,
    "vision_use_head": False,
}


def _gemma3() -> Tiny:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    tokenizer = build_tokenizer(boi_token="<start_of_image>", eoi_token="<end_of_image>")
    config = Gemma3Config(
        vision_config={**_SIGLIP, "image_size": 64},
        text_config={
            **_GEMMA,
            "model_type": "gemma3_text",
            "vocab_size": len(tokenizer),
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        mm_tokens_per_image=16,
        image_token_id=3,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
    )
    images = Gemma3ImageProcessorPil(size={"height": 64, "width": 64})
    record = {"processor_class": "Gemma3Processor", "image_seq_length": 16}
    model = Gemma3ForConditionalGeneration(config)
    return Tiny(model, tokenizer, images, record, tokenizer.boi_token)


def _paligemma() -> Tiny:
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration
    from transformers.models.paligemma.processing_paligemma import EXTRA_TOKENS
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = build_tokenizer()
    tokenizer.add_tokens(EXTRA_TOKENS)
    config = PaliGemmaConfig(
        vision_config={**_SIGLIP, "image_size": 32, "projection_dim": 32},
        text_config={
            **_GEMMA,
            "model_type": "gemma2",
            "vocab_size": len(tokenizer),
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
        },
        image_token_id=3,
        projection_dim=32,
    )
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    record = {"processor_class": "PaliGemmaProcessor"}
    return Tiny(PaliGemmaForConditionalGeneration(config), tokenizer, images, record)


def _aya_vision() -> Tiny:
    from transformers import AyaVisionConfig, AyaVisionForConditionalGeneration
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tokenizer = build_tokenizer(
        img_patch_token="<|IMG_PATCH|>",
        start_token="<|START_OF_IMG|>",
        end_token="<|END_OF_IMG|>",
    )
    config = AyaVisionConfig(
        vision_config={**_SIGLIP, "image_size": 32},
        text_config={
            **TEXT,
            "model_type": "cohere2",
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 3,
            "sliding_window": 13,
            "layer_types": _GEMMA["layer_types"],
            "logit_scale": 0.25,
        },
        image_token_id=tokenizer.img_patch_token_id,
        downsample_factor=2,
    )
    images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=5)
    record = {
        "processor_class": "AyaVisionProcessor",
        "patch_size": 8,
        "img_size": 32,
        "downsample_factor": 2,
    }
    return Tiny(AyaVisionForConditionalGeneration(config), tokenizer, images, record)


def _mistral3() -> Tiny:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    tokenizer = build_tokenizer(
        image_token="[IMG]", image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]"
    )
    config = Mistral3Config(
        vision_config={**TOWER, "model_type": "pixtral", "image_size": 64, "patch_size": 4},
        text_config={
            **TEXT,
            "model_type": "ministral3",
            "vocab_size": len(tokenizer),
            "head_dim": 24,
            # Prompts cross the length from which queries are scaled by their position.
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1_000_000.0,
                "factor": 16.0,
                "original_max_position_embeddings": 16,
                "max_position_embeddings": 256,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        },
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-2,
    )
    # The processor's call has blocks of two patches in place of this one.
    images = PixtralImageProcessorPil(
        patch_size={"height": 4, "width": 4}, size={"longest_edge": 64}
    )
    record = {"processor_class": "PixtralProcessor", "patch_size": 4, "spatial_merge_size": 2}
    model = Mistral3ForConditionalGeneration(config)
    return Tiny(model, tokenizer, images, record, "[IMG]")


BUILDERS: dict[str, Callable[[], Tiny]] = {
    "aya_vision": _aya_vision,
    "fast_vlm": _fast_vlm,
    "gemma3": _gemma3,
    "granite_docling": _granite_docling,
    "idefics3": lambda: _tiled("idefics3", "Idefics3"),
    "internvl": _internvl,
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "mistral3": _mistral3,
    "paligemma": _paligemma,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen2_vl": _qwen2_vl,
    "qwen3_vl": _qwen3_vl,
    "smolvlm": lambda: _tiled("smolvlm", "SmolVLM"),
    "vipllava": _vipllava,
}


def save_tiny(model_type: str, folder: Path, *, router: bool = True) -> Path:
    """Save a tiny checkpoint of a family, and return its folder.

    Args:
        model_type: One of `BUILDERS`.
        folder: The folder to make.
        router: Attach a router first.
    """
    import torch

    torch.manual_seed(0)
    tiny = BUILDERS[model_type]()
    tiny.model.config.get_text_config().max_position_embeddings = 512
    if router:
        from moir_edge.router import RouterConfig, retrofit

        retrofit(tiny.model, RouterConfig(rank=4, top_k=2), tokenizer=tiny.tokenizer)
    with torch.no_grad():
        for parameter in tiny.model.parameters():
            # Far enough from the small initial values that answers vary and the router matters.
            parameter += 0.15 * torch.randn(parameter.shape)
    tiny.model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    record = {**tiny.record, "image_processor": tiny.images.to_dict()}
    (folder / "processor_config.json").write_text(json.dumps(record))
    template = TEMPLATE.replace("IMAGE", tiny.image)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder
