"""Fixtures that several test modules share; what is slow to make is made once per run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .published import Generation, publish

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    # setuptools puts what an earlier build left there into the wheel, modules that no longer exist too
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Generation], Path]:
    """Return a function that gives a tiny checkpoint of a SmolVLM generation, laid out as on the hub; leave it as it is."""
    folders: dict[Generation, Path] = {}

    def give(generation: Generation) -> Path:
        if generation not in folders:
            parent = tmp_path_factory.mktemp("published")
            folders[generation] = publish(parent / generation, generation)
        return folders[generation]

    return give
