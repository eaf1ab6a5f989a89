"""Facts of a model for the manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from moir_edge.checkpoint import load_checkpoint
from moir_edge.export.facts import model_facts


@pytest.fixture(scope="module")
def folder(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("smolvlm")


def test_facts_of_a_smolvlm(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    facts = model_facts(checkpoint)
    assert checkpoint.source.architecture == "SmolVLMForConditionalGeneration"
    assert checkpoint.router is None
    assert facts.model_dump(exclude={"model_type"}) == {
        "hidden_size": 32,
        "num_layers": 2,
        "num_kv_heads": 2,
        "head_dim": 8,
        "vocab_size": 262,
        "context_length": 256,
        "image_token_id": 3,
        "eos_token_ids": (2,),
        "pad_token_id": 0,
        "special_token_ids": (0, 1, 2, 3, 4, 5),
        "newline_token_ids": tuple(
            checkpoint.tokenizer("\n\r", add_special_tokens=False)["input_ids"]
        ),
        "image_size": 32,
        "tokens_per_tile": 4,
        "image_grid": {"side": 2, "first": 0, "cell": 0.5},
        "family": {},
    }


def test_special_tokens_of_a_retrofitted_checkpoint_are_those_it_was_tuned_with(
    make_checkpoint: Callable[..., Path],
) -> None:
    source = make_checkpoint("smolvlm", router=True)
    config = json.loads((source / "config.json").read_text())
    config["moir_router"]["special_token_ids"] = [7, 1]
    (source / "config.json").write_text(json.dumps(config))
    checkpoint = load_checkpoint(source)
    assert checkpoint.router is not None
    assert model_facts(checkpoint).special_token_ids == (1, 7)
