"""The shipped checkpoint: complete, small, loadable by the stock classes, and able to read unseen digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moir_edge.demo import TASKS, checkpoint_path, demo_rows

BYTES_CAP = 12_000_000


@pytest.fixture(scope="module")
def folder() -> Path:
    return checkpoint_path()


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return transformers.AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from moir_edge.router import load_retrofitted

    torch.set_num_threads(min(2, torch.get_num_threads()))
    return load_retrofitted(folder)


def test_folder_is_complete_and_small(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "README.md", "chat_template.jinja", "config.json", "curves.svg", "generation_config.json",
        "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
        "training_log.json",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in folder.iterdir()) <= BYTES_CAP
    assert (folder / "curves.svg").stat().st_size < 60_000


def test_stock_auto_class_loads_it(folder: Path) -> None:
    model, info = transformers.AutoModelForImageTextToText.from_pretrained(
        folder, output_loading_info=True
    )
    assert type(model).__name__ == "SmolVLMForConditionalGeneration"
    assert not info["missing_keys"]
    # The stock class has no router; its weights are the only ones left over.
    assert all(key.startswith("moir_router.") for key in info["unexpected_keys"])
    assert sum(parameter.numel() for parameter in model.parameters()) <= 6_000_000


def test_generation_ends_at_the_end_of_utterance(folder: Path, processor: Any) -> None:
    config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    tokenizer = processor.tokenizer
    assert config["eos_token_id"] == tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    assert config["pad_token_id"] == tokenizer.pad_token_id


@pytest.mark.parametrize("text", ["What colour is the 7?", "naïve 日本\t🙂 x²", "\\n<html> & \x00"])
def test_any_text_survives_the_tokenizer(processor: Any, text: str) -> None:
    tokenizer = processor.tokenizer
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_it_answers_rows_with_unseen_digits(model: Any, processor: Any) -> None:
    from benchmarks.demo_training.evaluate import answer_rows, task_accuracy

    rows = demo_rows("test", count=90, seed=5)
    accuracy = task_accuracy(rows, answer_rows(model, processor, rows))
    # 30 rows a task: far under the card's figures, far over chance (statements 0.5, the others near 0.1).
    assert accuracy["vqa"] >= 0.8
    assert accuracy["statement"] >= 0.7
    assert accuracy["caption"] >= 0.7


def test_card_states_what_the_log_measured(folder: Path) -> None:
    record = json.loads((folder / "training_log.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    for task in TASKS:
        assert f"{100 * record['test']['clean'][task]:.1f}" in card, task
        assert record["test"]["rows"][task] >= 300
    assert f"Seed {record['plan']['seed']}" in card
    assert f"{record['minutes']} minutes" in card
