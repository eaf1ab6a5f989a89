"""What importing costs: the device has no torch, and start-up must not load what is not used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import moir_edge

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "pydantic", "numpy", "PIL", "tokenizers")


def _loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*(name for name in sys.modules if '.' not in name))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import moir_edge",
        "import moir_edge.runtime",
        "import moir_edge.cli.run, moir_edge.cli.inspect",
    ],
)
def test_importing_is_light(statement: str) -> None:
    assert not _loaded_after(statement) & set(HEAVY)


def test_the_runtime_needs_neither_torch_nor_transformers() -> None:
    loaded = _loaded_after(
        "import moir_edge; moir_edge.load; import moir_edge.runtime.routing_picture, moir_edge.router.positions"
    )
    assert "moir_edge" in loaded
    assert not loaded & {"torch", "transformers", "onnx", "onnxscript", "onnx_ir", "safetensors"}


def test_public_names_exist() -> None:
    assert callable(moir_edge.load)
    assert set(moir_edge.__all__) <= set(dir(moir_edge))
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        moir_edge.absent  # noqa: B018
    import moir_edge.runtime as runtime

    assert all(hasattr(runtime, name) for name in runtime.__all__)


def test_the_version_is_the_packages() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{moir_edge.__version__}"' in text
