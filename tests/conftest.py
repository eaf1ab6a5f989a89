"""Fixtures that several test modules share; what is slow to make is made once per run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moir_edge.locks import wait_for_lock

from .published import Generation, publish
from .scheduling import make_scheduler

ROOT = Path(__file__).parents[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let files that share what is slow to make run in one process, the longest first."""
    return make_scheduler(config, log) if config.getoption("dist") == "loadfile" else None


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """Return a folder that the first of the run's processes makes, and the others wait for; leave it as it is.

    Args:
        name: Of the folder, unique in the run.
        make: Fills a folder that is not there yet.
    """
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, whole = root / name, root / f"{name}.whole"
    lock = wait_for_lock(root / f"{name}.lock", seconds=3600)
    assert lock is not None, f"another process has made {name} for an hour"
    with lock:
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            whole.touch()
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""

    def build(folder: Path) -> None:
        # setuptools puts what an earlier build left there into the wheel, modules that no longer exist too
        shutil.rmtree(ROOT / "build", ignore_errors=True)
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
            check=True,
            capture_output=True,
        )

    return next(made_once(tmp_path_factory, "wheel", build).glob("*.whl"))


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
