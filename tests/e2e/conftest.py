"""The demo is run once for all processes, and what it leaves is what the other end-to-end tests work on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from moir_edge.cli.main import main

from ..conftest import made_once


@pytest.fixture(scope="module", autouse=True)
def _whoever_leaves_something_open_is_named() -> Iterator[None]:
    """Collect what a file's tests left: its warnings would come in a test of another file."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def demo_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `moir-edge demo` leaves behind, on few rows; read only."""

    def run(folder: Path) -> None:
        assert main(["demo", "-o", str(folder), "--rows", "24", "--json"]) == 0

    return made_once(tmp_path_factory, "demo", run)


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    """The trained checkpoint that ships inside the package."""
    from moir_edge.demo import checkpoint_path

    return checkpoint_path()


@pytest.fixture(scope="session")
def demo_bundle(demo_output: Path) -> Path:
    """The shipped checkpoint as a float32 bundle; read only."""
    return demo_output / "bundle-fp32"


@pytest.fixture(scope="session")
def demo_image(demo_output: Path) -> Path:
    """One scene of the test split as a PNG file."""
    return next(iter(sorted((demo_output / "data").rglob("vqa-*.png"))))
