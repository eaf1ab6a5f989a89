"""A type that export does not know: retrofit, tune and diagnose work on it, and export says what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from moir_edge.cli.main import main

from ..conftest import TEXT, build_tokenizer

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}:{% endif %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
)


def build_llava_next_video(folder: Path, tokenizer: Any) -> None:
    """Write a tiny LLaVA-NeXT for videos: tiles of 24 pixels, a grid of them chosen by the image's shape."""
    import torch
    from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    torch.manual_seed(0)
    grids = [[24, 48], [48, 24], [48, 48]]
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 8,
        "projection_dim": 16,
    }
    config = LlavaNextVideoConfig(
        vision_config=vision,
        text_config={**TEXT, "vocab_size": len(tokenizer)},
        image_token_id=3,
        image_grid_pinpoints=grids,
        vision_feature_layer=-1,
    )
    model = LlavaNextVideoForConditionalGeneration(config)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 24},
        crop_size={"height": 24, "width": 24},
        image_grid_pinpoints=grids,
    )
    tokenizer.save_pretrained(folder)
    record = {
        "processor_class": "LlavaNextVideoProcessor",
        "patch_size": 8,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_processor": images.to_dict(),
    }
    (folder / "processor_config.json").write_text(json.dumps(record))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def test_every_command_but_export_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_llava_next_video(tmp_path / "next", build_tokenizer())
    Image.new("RGB", (40, 24), "red").save(tmp_path / "a.png")
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"image": "a.png", "prompt": "Q", "answers": ["x"]}) + "\n")

    def run(*words: object) -> int:
        return main([str(word) for word in words])

    routed, tuned = tmp_path / "routed", tmp_path / "tuned"
    assert run("retrofit", tmp_path / "next", "-o", routed, "--rank", 4) == 0
    assert run("tune", routed, "-o", tuned, "--data", data, "--steps", 1) == 0
    assert run("diagnose", tuned, "--data", data, "-o", tmp_path / "report") == 0
    assert "and this is llava_next_video" in " ".join(capsys.readouterr().out.split())
    assert run("export", tuned, "-o", tmp_path / "bundle") == 2
    error = capsys.readouterr().err
    assert "export does not know model type 'llava_next_video'" in error
    assert "new about it: " in error
    assert "docs/architectures.md (Add an architecture) says how to add it" in error
    assert error.splitlines()[0] == "export: loading"
    assert error.count("\n") == 2
