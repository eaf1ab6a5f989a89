"""`optimum-cli export moir-edge` as installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moir_edge.bundle import open_bundle


@pytest.fixture(scope="module")
def environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """An environment in which moir-edge is installed: this one, or one with the wheel on the path."""
    if importlib.util.find_spec("optimum.commands.register") is not None:
        return dict(os.environ)
    wheel: Path = request.getfixturevalue("wheel")
    folder = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*install, str(folder), str(wheel)], check=True)
    return {**os.environ, "PYTHONPATH": str(folder)}


def _optimum(words: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "optimum.commands.optimum_cli", *words],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help(environment: dict[str, str], tmp_path: Path) -> None:
    assert "moir-edge" in _optimum(["export", "--help"], environment, tmp_path)
    assert "--target" in _optimum(["export", "moir-edge", "--help"], environment, tmp_path)


def test_export_of_the_demo(
    environment: dict[str, str], demo_checkpoint: Path, demo_bundle: Path, tmp_path: Path
) -> None:
    words = ["export", "moir-edge", str(demo_checkpoint), "-o", "bundle", "--json"]
    summary = json.loads(_optimum(words, environment, tmp_path))
    assert summary["precision"] == "fp32"
    ours, theirs = (open_bundle(path).manifest for path in (tmp_path / "bundle", demo_bundle))
    assert ours.source == theirs.source
    graphs = [
        {f.path: f.sha256 for f in one.files if f.path.endswith(".data")} for one in (ours, theirs)
    ]
    assert graphs[0] == graphs[1]
