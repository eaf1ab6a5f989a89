"""The real classes of models with Qwen3's decoder at any size, with tokenizers of bytes and the published settings of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moir_edge.finite import json_text

__all__ = ["FAMILIES", "Family", "Geometry"]

_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of a model with Qwen3's decoder; the largest are those of InternVL3.5-2B and of Qwen3-VL-2B alike.

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


@dataclass(frozen=True, kw_only=True)
class Family:
    """Recipe of a family: the parts that its model is made of.

    Attributes:
        name: As the page calls it.
        model: Returns the model of some sizes.
        write_processor: Writes tokenizer, settings of images and chat template into a folder.
    """

    name: str
    model: Callable[[Geometry], Any]
    write_processor: Callable[[Path], None]


def _text_config(sizes: Geometry) -> dict[str, Any]:
    return {
        "hidden_size": sizes.hidden,
        "intermediate_size": 3 * sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.heads // 2,
        "head_dim": sizes.head_width,
        "vocab_size": sizes.vocabulary,
        "tie_word_embeddings": True,
    }


def _internvl(sizes: Geometry) -> Any:
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
            **_text_config(sizes),
            "model_type": "qwen3",
            "max_position_embeddings": 4096,
        },
        image_token_id=3,
        tie_word_embeddings=True,
    )
    return InternVLForConditionalGeneration(config)


def _qwen3_vl(sizes: Geometry) -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    quarter, turning = sizes.vision_layers // 4, sizes.head_width // 2
    time = 3 * turning // 8
    width = (turning - time) // 2
    config = Qwen3VLConfig(
        vision_config={
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_hidden,
            "intermediate_size": 4 * sizes.vision_hidden,
            "num_heads": sizes.vision_hidden // 64,
            "out_hidden_size": sizes.hidden,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [quarter - 1, 2 * quarter - 1, 3 * quarter - 1],
        },
        text_config={
            **_text_config(sizes),
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_interleaved": True,
                "mrope_section": [time, turning - time - width, width],
            },
        },
        image_token_id=3,
        video_token_id=6,
        vision_start_token_id=4,
        vision_end_token_id=5,
        tie_word_embeddings=True,
    )
    return Qwen3VLForConditionalGeneration(config)


def _internvl_processor(folder: Path) -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<image>",
        "video_token": "<video>",
    }
    images = GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, max_patches=12)
    record = {"processor_class": "InternVLProcessor", "image_seq_length": 256}
    _write(folder, named, images, record, "<image>")


def _qwen3_vl_processor(folder: Path) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    named = {"vision_start_token": "<img>", "vision_end_token": "</img>", "video_token": "<video>"}
    images = Qwen2VLImageProcessorPil(
        patch_size=16,
        size={"shortest_edge": 65_536, "longest_edge": 16_777_216},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    record = {"processor_class": "Qwen3VLProcessor"}
    _write(folder, named, images, record, "<img><image></img>")


def _write(
    folder: Path, named: dict[str, str], images: Any, record: dict[str, Any], image: str
) -> None:
    """Write what a processor is made of.

    Args:
        folder: Where to.
        named: Special tokens that the processor asks its tokenizer for by name.
        images: The processor of images.
        record: What else its record holds.
        image: An image in the prompt.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<bos>", "<eos>", "<image>", "<img>", "</img>", "<video>"]
    names += sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={name: at for at, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>", **named},
    ).save_pretrained(folder)
    text = json_text({**record, "image_processor": images.to_dict()})
    (folder / "processor_config.json").write_text(text)
    template = _TEMPLATE.replace("IMAGE", image)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


FAMILIES = {
    "internvl": Family(name="InternVL", model=_internvl, write_processor=_internvl_processor),
    "qwen3_vl": Family(name="Qwen3-VL", model=_qwen3_vl, write_processor=_qwen3_vl_processor),
}
"""By `model_type`."""
