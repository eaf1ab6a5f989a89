"""Demo rows on disk, and a tiny LLaVA with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from moir_edge.data.rows import Row, read_rows
from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl

TEMPLATE = (
    "{% for message in messages %}User: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n"
    "{% endfor %}Assistant:"
)


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    return checkpoint_path()


@pytest.fixture(scope="session")
def demo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rows: two of each task, statements with two images."""
    return write_jsonl(demo_rows("test", count=6), tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def demo_data(demo_file: Path) -> list[Row]:
    return read_rows(demo_file)


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA without router, 2 layers, 9 image tokens."""
    import torch

    from ...conftest import _processor, build_llava, build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    folder = tmp_path_factory.mktemp("llava")
    model = build_llava(len(tokenizer))
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    processor = _processor("llava", tokenizer)
    processor.chat_template = TEMPLATE
    processor.save_pretrained(folder)
    return folder
