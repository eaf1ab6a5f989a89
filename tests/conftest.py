"""Fixtures that several test modules share; what is slow to make is made once per run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    """The trained checkpoint that ships inside the package."""
    from moir_edge.demo import checkpoint_path

    return checkpoint_path()


@pytest.fixture(scope="session")
def demo_bundle(demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped checkpoint as a float32 bundle for the CPU; read only."""
    from moir_edge.export import export_bundle

    return export_bundle(demo_checkpoint, tmp_path_factory.mktemp("bundles") / "fp32")


@pytest.fixture(scope="session")
def demo_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene of the test split as a PNG file."""
    from moir_edge.demo import demo_rows

    path = tmp_path_factory.mktemp("images") / "scene.png"
    demo_rows("test", count=1, tasks=("vqa",))[0].images[0].save(path)
    return path
