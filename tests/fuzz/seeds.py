"""The whole inputs that cases alter; made once per run by moir-edge itself, and never changed by a case."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from moir_edge.demo import checkpoint_path

__all__ = ["make_seeds"]

Maker = Callable[[Path], None]


def make_seeds(folder: Path, names: Collection[str]) -> None:
    """Make the named seeds as entries of a folder; one that is there stays."""
    for name in sorted(names):
        target = folder / name
        if not target.exists():
            _MAKERS[name](target)


def _bundle(precision: str) -> Maker:
    def make(target: Path) -> None:
        _moir_edge("export", str(checkpoint_path()), "-o", str(target), "--precision", precision)

    return make


def _moir_edge(*words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "moir_edge", *words, "--quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _program(module: str) -> Maker:
    def make(target: Path) -> None:
        words = [sys.executable, "-m", f"tests.fuzz.{module}", str(target)]
        subprocess.run(words, check=True, capture_output=True)

    return make


def _checkpoint(target: Path) -> None:
    """Copy the demo's checkpoint without the files that describe how it was trained."""
    target.mkdir()
    for path in checkpoint_path().iterdir():
        if path.suffix in (".json", ".jinja", ".safetensors") and path.name != "training_log.json":
            shutil.copyfile(path, target / path.name)


_MAKERS: dict[str, Maker] = {
    "checkpoint": _checkpoint,
    "fp32": _bundle("fp32"),
    "int4": _bundle("int4"),
    "tables": _program("tables_seed"),
    "training": _program("training_seed"),
}
