"""Build the demo VLM from nothing: a byte-level tokenizer, a processor and a small SmolVLM with random weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "CHAT_TEMPLATE",
    "IMAGE_TOKENS",
    "build_model",
    "build_processor",
    "build_smolvlm",
    "build_tokenizer",
    "save_folder",
    "wrap_tokenizer",
]

IMAGE_SIZE = 96
PATCH_SIZE = 8
SCALE_FACTOR = 2
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE // SCALE_FACTOR) ** 2
VOCABULARY_SIZE = 512
CONTEXT_LENGTH = 512

PAD, EOS, BOS = "<|endoftext|>", "<end_of_utterance>", "<|im_start|>"
IMAGE, IMAGE_EDGE, GLOBAL_IMAGE = "<image>", "<fake_token_around_image>", "<global-img>"

CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def build_tokenizer(texts: Iterable[str]) -> Any:
    """Train a byte-level BPE tokenizer, which encodes any text without an unknown token.

    Args:
        texts: Sentences of the demo language, one per item.

    Returns:
        A `PreTrainedTokenizerFast` of exactly `VOCABULARY_SIZE` entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    specials = [PAD, BOS, EOS, IMAGE, IMAGE_EDGE, GLOBAL_IMAGE]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    missing = VOCABULARY_SIZE - core.get_vocab_size()
    core.add_special_tokens([f"<reserved_{index}>" for index in range(missing)])
    return wrap_tokenizer(core, max_length=CONTEXT_LENGTH)


def wrap_tokenizer(core: Any, *, max_length: int) -> Any:
    """Give a `tokenizers.Tokenizer` SmolVLM's special tokens, as a `PreTrainedTokenizerFast` that pads on the left."""
    from transformers import PreTrainedTokenizerFast

    wrap: Any = PreTrainedTokenizerFast
    return wrap(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[IMAGE, IMAGE_EDGE, GLOBAL_IMAGE],
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_processor(
    tokenizer: Any, *, image_size: int = IMAGE_SIZE, image_tokens: int = IMAGE_TOKENS
) -> Any:
    """Wrap the tokenizer with the Pillow image processor (one square tile, no torchvision) and the chat template.

    Args:
        tokenizer: From `wrap_tokenizer`.
        image_size: Side of the tile, in px.
        image_tokens: What one tile becomes.
    """
    from transformers import Idefics3Processor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    images = SmolVLMImageProcessorPil(
        do_image_splitting=False,
        size={"longest_edge": image_size},
        max_image_size={"longest_edge": image_size},
    )
    return Idefics3Processor(
        images, tokenizer, image_seq_len=image_tokens, chat_template=CHAT_TEMPLATE
    )


def build_model(tokenizer: Any) -> Any:
    """Build the SmolVLM class at the demo's geometry with random weights (seed torch beforehand)."""
    return build_smolvlm(
        tokenizer,
        scale_factor=SCALE_FACTOR,
        vision={
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
        },
        text={
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 32,
            "max_position_embeddings": CONTEXT_LENGTH,
        },
    )


def build_smolvlm(
    tokenizer: Any, *, scale_factor: int, vision: Mapping[str, int], text: Mapping[str, int]
) -> Any:
    """Build a greedy SmolVLM with random weights, a Llama inside, and a head tied to the embeddings.

    Args:
        tokenizer: Gives the ids of the special tokens.
        scale_factor: Side of the square of patches that becomes one image token.
        vision: Sizes of the vision tower.
        text: Sizes of the language model.
    """
    from transformers import GenerationConfig, SmolVLMConfig, SmolVLMForConditionalGeneration

    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    config = SmolVLMConfig(
        vision_config=dict(vision),
        text_config={"model_type": "llama", "tie_word_embeddings": True, **text, **ids},
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        scale_factor=scale_factor,
        tie_word_embeddings=True,
        **ids,
    )
    model = SmolVLMForConditionalGeneration(config)
    generation: Any = GenerationConfig
    model.generation_config = generation(do_sample=False, max_new_tokens=64, **ids)
    return model


def save_folder(model: Any, processor: Any, folder: Path) -> None:
    """Write weights, configs, tokenizer and processor in the layout that `from_pretrained` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
