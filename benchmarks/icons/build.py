"""Build the second backbone from nothing: LLaVA's class with a CLIP tower and a Qwen2 decoder, random weights."""

from __future__ import annotations

from typing import Any

from benchmarks.demo_training.build import CHAT_TEMPLATE, CONTEXT_LENGTH, IMAGE, IMAGE_SIZE

__all__ = ["IMAGE_TEXT", "build_llava", "build_llava_processor"]

PATCH_SIZE = 16
_TEMPLATE = CHAT_TEMPLATE.replace("'<image>'", "'<image>\n'")
IMAGE_TEXT = IMAGE * (IMAGE_SIZE // PATCH_SIZE) ** 2 + "\n"
"""What one image becomes in the chat: its tokens, and a line break that parts it from the next one."""


def build_llava(tokenizer: Any) -> Any:
    """Build a greedy LLaVA at about the demo's size (seed torch beforehand); its head is tied to the embeddings."""
    from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration

    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 144, "intermediate_size": 432, "num_hidden_layers": 4,
            "num_attention_heads": 4, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "projection_dim": 144,
        },
        text_config={
            "model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": 192, "intermediate_size": 512,
            "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 3, "tie_word_embeddings": True,
            "max_position_embeddings": CONTEXT_LENGTH, **ids,
        },
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
        **ids,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    generation: Any = GenerationConfig
    model.generation_config = generation(do_sample=False, max_new_tokens=64, **ids)
    return model


def build_llava_processor(tokenizer: Any) -> Any:
    """Wrap the tokenizer with CLIP's Pillow image processor (one square tile, in [-1, 1]) and a chat template."""
    from transformers import LlavaProcessor as Processor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    processor: Any = Processor
    return processor(
        images,
        tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which the strategy drops again
        chat_template=_TEMPLATE,
    )
