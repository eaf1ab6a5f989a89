"""The folder of an unfinished run: its place, its identity, and who may resume or discard it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from moir_edge.arguments import given_path
from moir_edge.checked import checked
from moir_edge.data.formats import DataSource
from moir_edge.disk import sync, write_problem
from moir_edge.errors import DataError
from moir_edge.finite import json_text
from moir_edge.json_files import read_object
from moir_edge.locks import FileLock, take_lock
from moir_edge.ownership import (
    FolderKind,
    foreign_files,
    matches,
    name_some,
    owned_files,
    remove_files,
)
from moir_edge.tuning.checkpoints import CHECKPOINT_FILES, SEAL_DRAFTS
from moir_edge.tuning.settings import TuneSettings
from moir_edge.whole_files import write_whole

__all__ = [
    "check_unfinished",
    "claim",
    "discard",
    "run_identity",
    "training_folder",
]

_RUN_NAME = "run.json"
_LOCK_NAME = "run.lock"
_DRAFTS = (f".{_RUN_NAME}.draft-*", f"checkpoint-*/{SEAL_DRAFTS}")
_KIND = FolderKind(
    name="run of tune",
    marker=_RUN_NAME,
    error=DataError,
    keys=("settings", "weights", "data", "eval_data"),
    names=(
        "images/*.png",
        *(f"checkpoint-*/{name}" for name in CHECKPOINT_FILES),
        _LOCK_NAME,
        *_DRAFTS,
    ),
)


@checked(output=given_path)
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
        DataError: One of the two, the folder is not one that tune made, or it holds a link.
    """
    if resume:
        if not (training / _RUN_NAME).is_file():
            raise DataError(f"nothing to resume: there is no unfinished run at {training}")
        _refuse_links(training)
    elif _begun(training):
        if not force:
            raise DataError(
                f"{training} holds an unfinished run; go on with `resume=True` or discard it with `force=True`"
            )
        _owned(training)


def claim(
    training: Path, identity: dict[str, Any], settings: TuneSettings, *, resume: bool
) -> FileLock:
    """Start the training folder, or check that the run in it is the same one.

    Args:
        training: The folder.
        identity: What `run_identity` returned.
        settings: Of the run now.
        resume: Whether the folder holds the run to go on with.

    Returns:
        The lock of the run, which the system gives up when the process ends.

    Raises:
        DataError: Settings, weights or data are other ones than the run was started with, its record is damaged, or
            another process works on it.
        EnvironmentProblem: The folder cannot be written.
    """
    try:
        training.mkdir(parents=True, exist_ok=True)
        lock = take_lock(training / _LOCK_NAME)
    except OSError as error:
        raise write_problem(training, error) from error
    if lock is None:
        raise DataError(
            f"another process works on the run at {training}; wait for its end or give another `output`"
        )
    try:
        if resume:
            _require_same_run(training, identity, settings)
        else:
            if _begun(training):
                _remove(training, _owned(training))
            write_whole(training / _RUN_NAME, json_text(identity))
    except BaseException:
        lock.release(remove=True)
        raise
    return lock


def discard(training: Path, lock: FileLock) -> None:
    """Delete what a run left in its training folder, and the folder if nothing else lies in it."""
    _remove(training, owned_files(training, _KIND) or frozenset())
    lock.release(remove=True)
    with suppress(OSError):
        training.rmdir()


def _require_same_run(training: Path, identity: dict[str, Any], settings: TuneSettings) -> None:
    path, remedy = training / _RUN_NAME, f"remove {training} and start again"
    before = read_object(path, remedy=remedy)
    if set(before) != set(identity) or not isinstance(before["settings"], dict):
        raise DataError(f"{path} is not the record of a run; {remedy}")
    changed = settings.difference(before["settings"])
    if changed is None:
        names = ("weights", "data", "eval_data")
        changed = next((f"{n} changed" for n in names if before[n] != identity[n]), None)
    if changed is not None:
        raise DataError(
            f"the run at {training} cannot be resumed: {changed}; "
            "give the arguments that it was started with, or discard it with `force=True`"
        )


def _begun(training: Path) -> bool:
    """Say whether a folder holds more than a process leaves that is killed before it wrote the record of its run."""
    return training.exists() and bool(
        foreign_files(training, lambda name: matches(name, (_LOCK_NAME, *_DRAFTS)))
    )


def _refuse_links(training: Path) -> None:
    for place, folders, files in os.walk(training):
        for name in sorted((*folders, *files)):
            if (path := Path(place) / name).is_symlink():
                raise DataError(
                    f"{path} is a link, and tune follows none in the folder of a run; remove the link"
                )


def _remove(training: Path, owned: frozenset[str]) -> None:
    """Remove the files of a run; the record, which tells that the others are ours, goes last, and the lock stays."""
    owned -= {_LOCK_NAME}
    remove_files(training, (owned - {_RUN_NAME}).__contains__)
    with suppress(OSError):
        sync(training)
    remove_files(training, owned.__contains__)


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
