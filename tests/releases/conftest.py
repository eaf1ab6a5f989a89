"""What the suite works on: the checkpoint of the demo, its rows, and the bundles that the installed releases make of it."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import moir_edge
from moir_edge.cli.main import main

RELEASES = (
    "torch",
    "transformers",
    "onnxruntime",
    "onnx",
    "onnxscript",
    "onnx-ir",
    "optimum",
    "numpy",
    "pillow",
    "tokenizers",
    "pydantic",
)


def pytest_report_header() -> str:
    """Name the versions that the suite runs on."""
    found = ", ".join(f"{name} {version(name)}" for name in RELEASES)
    return f"releases: Python {platform.python_version()}, {found}"


def pytest_sessionstart() -> None:
    """Refuse to test the checkout in place of the installed package."""
    package = Path(moir_edge.__file__)
    if Path(sys.prefix) not in package.parents:
        raise pytest.UsageError(
            f"moir_edge comes from {package.parent}, expected the package that is installed in "
            f"{sys.prefix}; run `make newest`"
        )


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    from moir_edge.demo import checkpoint_path

    return checkpoint_path()


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rows of the test split, as JSON lines with their pictures."""
    from moir_edge.demo import demo_rows, write_jsonl

    return write_jsonl(demo_rows("test", count=20), tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> Any:
    import torch

    from moir_edge.router import load_retrofitted

    return load_retrofitted(checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def inputs(checkpoint: Path) -> dict[str, Any]:
    """One prompt with a picture, as the processor of transformers prepares it."""
    from transformers import AutoProcessor

    from moir_edge.demo import demo_rows

    processor = AutoProcessor.from_pretrained(checkpoint)
    (row,) = demo_rows("test", count=1, tasks=("vqa",))
    turn = [{"type": "image"}, {"type": "text", "text": row.prompt}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": turn}], add_generation_prompt=True
    )
    return dict(processor(text=text, images=list(row.images), return_tensors="pt"))


def _export(checkpoint: Path, output: Path, precision: str) -> Path:
    assert main(["export", str(checkpoint), "-o", str(output), "--precision", precision]) == 0
    return output


@pytest.fixture(scope="session")
def fp32(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(checkpoint, tmp_path_factory.mktemp("fp32") / "bundle-fp32", "fp32")


@pytest.fixture(scope="session")
def int4(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(checkpoint, tmp_path_factory.mktemp("int4") / "bundle-int4", "int4")
