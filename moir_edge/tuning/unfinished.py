"""The folder of an unfinished run: its place, its identity, and who may resume or discard it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moir_edge.data.formats import DataSource
from moir_edge.errors import DataError
from moir_edge.finite import json_text
from moir_edge.ownership import (
    FolderKind,
    foreign_files,
    matches,
    name_some,
    owned_files,
    remove_files,
)
from moir_edge.tuning.settings import TuneSettings

__all__ = [
    "check_unfinished",
    "claim",
    "discard",
    "is_training_file",
    "run_identity",
    "training_folder",
]

_RUN_NAME = "run.json"
_CHECKPOINT_FILES = ("*.json", "*.draft", "*.pt", "*.pth", "*.bin", "*.safetensors")
_KIND = FolderKind(
    name="run of tune",
    marker=_RUN_NAME,
    error=DataError,
    keys=("settings", "weights", "data", "eval_data"),
    names=("images/*.png", *(f"checkpoint-*/{name}" for name in _CHECKPOINT_FILES)),
)


def training_folder(output: str | Path) -> Path:
    """Return where a run keeps its training checkpoints until it is done: beside the output."""
    target = Path(output).absolute()
    return target.parent / f"{target.name}.training"


def run_identity(
    settings: TuneSettings,
    weights_sha256: str,
    data: DataSource,
    eval_data: DataSource | None,
) -> dict[str, Any]:
    """Return what tells one run from another, as plain JSON data: settings, weights and data."""
    return {
        "settings": settings.record(),
        "weights": weights_sha256,
        "data": data.identity(),
        "eval_data": None if eval_data is None else eval_data.identity(),
    }


def check_unfinished(training: Path, *, resume: bool, force: bool) -> None:
    """Refuse to resume where nothing is, and to discard an unfinished run unasked; cheap, before any loading.

    Raises:
        DataError: One of the two, or the folder is not one that tune made.
    """
    if resume and not (training / _RUN_NAME).is_file():
        raise DataError(f"nothing to resume: there is no unfinished run at {training}")
    if not resume and training.exists():
        if not force:
            raise DataError(
                f"{training} holds an unfinished run; go on with `resume=True` or discard it with `force=True`"
            )
        _owned(training)


def is_training_file(name: str) -> bool:
    """Say whether the Trainer, or `tune` itself, writes a file of that name into a training checkpoint."""
    return matches(name, _CHECKPOINT_FILES)


def discard(training: Path) -> None:
    """Delete what a run left in its training folder, and the folder if nothing else lies in it."""
    if training.exists():
        remove_files(training, _owned(training).__contains__)


def _owned(training: Path) -> frozenset[str]:
    """Return the files of a run; raise `DataError` for a folder that holds others, or that `tune` did not make."""
    owned = owned_files(training, _KIND)
    if owned is None:
        raise DataError(f"{training} is not a run of tune; remove it yourself")
    others = foreign_files(training, owned.__contains__)
    if others:
        raise DataError(
            f"{training} holds files not written by tune ({name_some(others)}); move them away"
        )
    return owned


def claim(
    training: Path, identity: dict[str, Any], settings: TuneSettings, *, resume: bool
) -> None:
    """Start the training folder, or check that the run in it is the same one.

    Args:
        training: The folder.
        identity: What `run_identity` returned.
        settings: Of the run now.
        resume: Whether the folder holds the run to go on with.

    Raises:
        DataError: Settings, weights or data are other ones than the run was started with.
    """
    if not resume:
        discard(training)
        training.mkdir(parents=True, exist_ok=True)
        (training / _RUN_NAME).write_text(json_text(identity))
        return
    before = json.loads((training / _RUN_NAME).read_text())
    changed = settings.difference(before["settings"])
    if changed is None:
        names = ("weights", "data", "eval_data")
        changed = next((f"{n} changed" for n in names if before[n] != identity[n]), None)
    if changed is not None:
        raise DataError(
            f"the run at {training} cannot be resumed: {changed}; "
            "give the arguments that it was started with, or discard it with `force=True`"
        )
