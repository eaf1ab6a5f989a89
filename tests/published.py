"""Tiny SmolVLM checkpoints with random weights, laid out file by file as the two generations are published on the hub.

`publish` writes one folder; tests give it where a user names a hub id.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

Generation = Literal["smolvlm", "smolvlm2"]

TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TILE, LONGEST_EDGE, PATCH, SCALE = 32, 128, 8, 2
TOKENS_PER_TILE = (TILE // PATCH // SCALE) ** 2
_BASE = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_ADDED = [
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
]
_IMAGES = {
    "do_convert_rgb": True,
    "do_image_splitting": True,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "max_image_size": {"longest_edge": TILE},
    "resample": 1,
    "rescale_factor": 0.00392156862745098,
    "size": {"longest_edge": LONGEST_EDGE},
}
_VIDEO = {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": TILE}}
_NAMES = {
    "smolvlm": ("Idefics3", "idefics3", "Idefics3Processor", "Idefics3ImageProcessor"),
    "smolvlm2": ("SmolVLM", "smolvlm", "SmolVLMProcessor", "SmolVLMImageProcessor"),
}


def publish(folder: Path, generation: Generation) -> Path:
    """Write a checkpoint and return its folder.

    Args:
        folder: A folder that does not exist.
        generation: ``smolvlm`` (SmolVLM-256M, `model_type` idefics3) or ``smolvlm2`` (SmolVLM2-256M-Video).
    """
    _, _, processor, images = _NAMES[generation]
    folder.mkdir()
    ids = _write_tokenizer(folder, processor)
    _write_model(folder, generation, ids)
    video = {"video_sampling": _VIDEO} if generation == "smolvlm2" else {}
    record = {**_IMAGES, "image_processor_type": images, "processor_class": processor, **video}
    _write(folder / "preprocessor_config.json", record)
    seen = {"image_seq_len": TOKENS_PER_TILE, "processor_class": processor}
    _write(folder / "processor_config.json", seen)
    _write(folder / "chat_template.json", {"chat_template": TEMPLATE})
    generated = {"bos_token_id": 1, "eos_token_id": ids["<end_of_utterance>"], "pad_token_id": 2}
    _write(folder / "generation_config.json", {"_from_model_config": True, **generated})
    return folder


def _write_tokenizer(folder: Path, processor: str) -> dict[str, int]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = [*_BASE, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {word: index for index, word in enumerate(words)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(word, normalized=False) for word in (*_BASE, *_ADDED)])
    core.save(str(folder / "tokenizer.json"))
    _write(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    ids = {word: core.token_to_id(word) for word in (*_BASE, *_ADDED)}
    _write(folder / "added_tokens.json", {word: ids[word] for word in _ADDED})
    named = {
        "additional_special_tokens": _ADDED[-3:],
        "bos_token": "<|im_start|>",
        "eos_token": "<end_of_utterance>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    }
    _write(folder / "special_tokens_map.json", named)
    common = {"normalized": False, "special": True, "lstrip": False, "rstrip": False}
    decoder = {str(ids[word]): {"content": word, **common} for word in ids}
    record = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": 8192,
        "add_prefix_space": False,
    }
    _write(
        folder / "tokenizer_config.json",
        {**named, **record, "added_tokens_decoder": decoder, "processor_class": processor},
    )
    return {**ids, "size": core.get_vocab_size()}


def _write_model(folder: Path, generation: Generation, ids: dict[str, int]) -> None:
    import torch
    import transformers
    from safetensors.torch import save_file

    prefix, model_type, *_ = _NAMES[generation]
    config = _config(generation, model_type, f"{prefix}ForConditionalGeneration", ids)
    cls = getattr(transformers, f"{prefix}ForConditionalGeneration")
    torch.manual_seed(0)
    model = cls(getattr(transformers, f"{prefix}Config")(**config))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    weights = {name: value.bfloat16().clone() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", config)


def _config(
    generation: Generation, model_type: str, architecture: str, ids: dict[str, int]
) -> dict[str, Any]:
    text = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 8192,
        "rope_theta": 100000,
        "pad_token_id": 2,
        "vocab_size": ids["size"],
        "torch_dtype": "bfloat16",
    }
    vision = {
        "model_type": "idefics3" if generation == "smolvlm" else "smolvlm_vision",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": TILE,
        "patch_size": PATCH,
        "max_image_size": {"longest_edge": TILE},
    }
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "image_token_id": ids["<image>"],
        # As published: past the end of the embedding table.
        "pad_token_id": 128002,
        "scale_factor": SCALE,
        "tie_word_embeddings": False,
        "text_config": text,
        "vision_config": vision,
        "vocab_size": ids["size"],
        "transformers_version": "4.47.1",
    }


def _write(path: Path, record: object) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
