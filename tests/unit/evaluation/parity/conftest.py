"""A second bundle of the tiny checkpoint, and candidates without a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from moir_edge.export import TracedModel


@pytest.fixture(scope="session")
def quantized(traced: TracedModel, checkpoint: Path) -> Path:
    from moir_edge.export import assemble

    return assemble(traced, checkpoint.parent / "quantized", precision="int8-weight-only")


@pytest.fixture(scope="session")
def compiled(bundle: Path) -> Path:
    """The fp32 bundle with engines for a GPU that this machine does not have."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (extra `rtx`)")
    from moir_edge.engines import add_engines

    folder = bundle.parent / "compiled"
    shutil.copytree(bundle, folder)
    return add_engines(folder, "rtx-40")
