"""Rows and reports without a model, and a tiny retrofitted SmolVLM with random weights and its fp32 bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moir_edge.data.rows import Row
from moir_edge.evaluation.comparison.gates import GateBounds
from moir_edge.evaluation.comparison.schema import ComparisonReport

from .fakes import make_report, make_rows

if TYPE_CHECKING:
    from moir_edge.export import TracedModel


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return make_rows(tmp_path)


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> ComparisonReport:
    bounds = GateBounds(min_recovery=95, max_ttft_ratio=2)
    return make_report(tmp_path_factory.mktemp("report"), bounds)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import GenerationConfig, SmolVLMConfig, SmolVLMForConditionalGeneration

    from benchmarks.demo_training.build import IMAGE, build_processor, build_tokenizer
    from moir_edge.router import RouterConfig, retrofit

    torch.manual_seed(0)
    tokenizer = build_tokenizer(["What is red? A red square number true false."] * 20)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = SmolVLMConfig(
        vision_config={**sizes, "num_attention_heads": 2, "image_size": 96, "patch_size": 8},
        text_config={
            **sizes,
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
            **ids,
        },
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        scale_factor=2,
        tie_word_embeddings=True,
        **ids,
    )
    model = SmolVLMForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(do_sample=False, **ids)
    router = retrofit(
        model, RouterConfig(top_k=2, rank=8), special_token_ids=tokenizer.all_special_ids
    )
    for weight in router.parameters():
        if not weight.any():  # an untrained output projection would hide the router
            torch.nn.init.normal_(weight, std=0.3)
    folder = tmp_path_factory.mktemp("models") / "checkpoint"
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def traced(checkpoint: Path) -> TracedModel:
    """The checkpoint's graphs, to be assembled in any precision."""
    from moir_edge.export import load_checkpoint, trace_components

    return trace_components(load_checkpoint(checkpoint))


@pytest.fixture(scope="session")
def bundle(traced: TracedModel, checkpoint: Path) -> Path:
    from moir_edge.export import assemble

    return assemble(traced, checkpoint.parent / "bundle")


@pytest.fixture(scope="session")
def picture_rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return make_rows(tmp_path_factory.mktemp("rows"), count=6)
