"""The shipped checkpoint with fresh weights in memory, and a batch of demo rows for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from moir_edge.data.rows import Row, read_rows
from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl
from moir_edge.router import load_retrofitted


@pytest.fixture(scope="session")
def train_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rows: two of each task, statements with two images."""
    return write_jsonl(demo_rows("train", count=6), tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="session")
def train_rows(train_file: Path) -> list[Row]:
    return read_rows(train_file)


@pytest.fixture(scope="session")
def processor() -> Any:
    return AutoProcessor.from_pretrained(checkpoint_path())


@pytest.fixture
def model() -> Any:
    return load_retrofitted(checkpoint_path(), dtype=torch.float32)


@pytest.fixture
def batch(processor: Any) -> dict[str, torch.Tensor]:
    """Two questions with the answer ` red` at the end, labelled there only."""
    conversation = [
        {"role": "user", "content": [{"type": "image", "image": row.images[0]}, {"type": "text", "text": row.prompt}]}
        for row in demo_rows("train", count=2, tasks=("vqa",))
    ]  # fmt: skip
    encoded = processor.apply_chat_template(
        [[turn] for turn in conversation],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    answer = processor.tokenizer(" red", return_tensors="pt").input_ids.expand(2, -1)
    prompt = encoded["input_ids"]
    encoded["input_ids"] = torch.cat([prompt, answer], dim=1)
    encoded["attention_mask"] = torch.cat([encoded["attention_mask"], torch.ones_like(answer)], 1)
    encoded["labels"] = torch.cat([torch.full_like(prompt, -100), answer], dim=1)
    return dict(encoded)
