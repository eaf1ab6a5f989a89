"""The training checkpoints of a run: a seal with the hash of every file makes one whole, and any other is passed over."""

from __future__ import annotations

import hashlib
import logging
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from moir_edge.errors import DataError
from moir_edge.json_files import read_object
from moir_edge.limits import TRAINING_LOG_BYTES
from moir_edge.ownership import matches, remove_files

__all__ = [
    "CHECKPOINT_FILES",
    "SEAL_DRAFTS",
    "SEAL_NAME",
    "SEAL_VERSION",
    "CheckpointFlaw",
    "FileHash",
    "checkpoint_folder",
    "find_whole",
    "has_checkpoints",
    "newest_sealed",
    "newest_whole",
    "read_part",
    "remove_checkpoint",
    "remove_old",
    "require_whole",
]

CHECKPOINT_FILES = ("*.json", "*.draft", "*.pt", "*.pth", "*.bin", "*.safetensors")
"""Names that the Trainer and `tune` give to files of a training checkpoint."""

SEAL_NAME = "complete.json"
"""The last file of a checkpoint to be written: size and hash of each of the others."""

SEAL_DRAFTS = f".{SEAL_NAME}.draft-*"
"""Names that a seal has while it is written."""

SEAL_VERSION = 1
_KEPT = 2
_CHUNK_BYTES = 1 << 20
_NAME = re.compile(r"checkpoint-([1-9][0-9]{0,17})")

_log = logging.getLogger(__name__)


class CheckpointFlaw(DataError):  # noqa: N818 (the reason to pass a checkpoint over)
    """A training checkpoint is not whole; the text says which file and why."""


class FileHash(NamedTuple):
    """Size and hash of a file.

    Attributes:
        bytes: Its size.
        sha256: 64 hexadecimal digits.
    """

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileHash:
        """Read a file."""
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
            return cls(stream.tell(), digest.hexdigest())


def remove_old(training: Path, best_of: Callable[[Path], int | None]) -> None:
    """Remove checkpoints but the newest two, and those that hold the best weights as these two know them.

    Args:
        training: The run's folder.
        best_of: Returns the step of the best weights as a checkpoint knows it, or None.
    """
    folders = _folders(training)
    kept = dict(list(folders.items())[:_KEPT])
    for folder in tuple(kept.values()):
        with suppress(CheckpointFlaw):  # damaged since it was written, so nothing goes on from it
            best = best_of(folder)
            kept.update({step: folders[step] for step in (best,) if step in folders})
    for step, folder in folders.items():
        if step not in kept:
            remove_checkpoint(folder)


def checkpoint_folder(training: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return training / f"checkpoint-{step}"


def newest_sealed(training: Path) -> int | None:
    """Return the step of the newest checkpoint that was written to its end, damaged or not; None if there is none."""
    sealed = (step for step, folder in _folders(training).items() if (folder / SEAL_NAME).exists())
    return next(sealed, None)


def has_checkpoints(training: Path) -> bool:
    """Say whether a run has a checkpoint, whole or not."""
    return bool(_folders(training))


def newest_whole(training: Path, check: Callable[[Path], None]) -> Path | None:
    """Return the newest whole checkpoint; None if the run had none, or was killed while it wrote the first.

    Newer ones that are not whole are named in one line each, and removed.

    Args:
        training: The run's folder.
        check: Raises `CheckpointFlaw` for a checkpoint whose files are whole and that cannot be used.

    Raises:
        DataError: There were whole ones, and all of them are damaged.
    """
    found, flaws = find_whole(training, check)
    damaged = [flaw for folder, flaw in flaws.items() if (folder / SEAL_NAME).exists()]
    if found is None and damaged:
        raise DataError(
            f"no training checkpoint of the run at {training} is whole: {damaged[0]}; put that file back as it was, "
            "or discard the run with `force=True`"
        )
    where = "the first step" if found is None else f"step {_step_of(found)}"
    for folder, flaw in flaws.items():
        _log.warning(f"a training checkpoint is not whole: {flaw}; going on from {where}")
        remove_checkpoint(folder)
    return found


def find_whole(
    training: Path, check: Callable[[Path], None]
) -> tuple[Path | None, dict[Path, CheckpointFlaw]]:
    """Return the newest whole checkpoint, and why newer ones are not; see `newest_whole`."""
    flaws = {}
    for folder in _folders(training).values():
        try:
            require_whole(folder)
            check(folder)
        except CheckpointFlaw as flaw:
            flaws[folder] = flaw
        else:
            return folder, flaws
    return None, flaws


def require_whole(folder: Path) -> None:
    """Refuse a checkpoint that is half-written, or of which a file is not the one that was written.

    Raises:
        CheckpointFlaw: Names the file.
    """
    if not (folder / SEAL_NAME).exists():
        raise CheckpointFlaw(f"{folder} has no {SEAL_NAME}, so writing it was interrupted")
    seal = read_part(folder, SEAL_NAME)
    listed = seal.get("files")
    if seal.get("version") != SEAL_VERSION or not isinstance(listed, dict) or len(seal) != 2:
        raise CheckpointFlaw(
            f"{folder / SEAL_NAME} is not a list of files of version {SEAL_VERSION}"
        )
    present = {path.name for path in folder.iterdir() if matches(path.name, CHECKPOINT_FILES)}
    if unlisted := sorted(present - set(listed) - {SEAL_NAME}):
        raise CheckpointFlaw(f"{folder / unlisted[0]} is not listed in {SEAL_NAME}")
    if missing := sorted(set(listed) - present):
        raise CheckpointFlaw(f"{folder} lacks {missing[0]}")
    for name, record in listed.items():
        _require_same(folder / name, record)


def _require_same(path: Path, record: Any) -> None:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointFlaw(f"{path} is not a regular file")
        if not isinstance(record, dict) or record.get("bytes") != status.st_size:
            raise CheckpointFlaw(f"{path} has another size than was written")
        if FileHash.of(path)._asdict() != record:
            raise CheckpointFlaw(f"{path} has another SHA-256 than was written")
    except OSError as error:
        raise CheckpointFlaw(f"{path} cannot be read ({error.strerror or error})") from error


def read_part(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON object of a checkpoint.

    Raises:
        CheckpointFlaw: It is missing, damaged, or holds something else.
    """
    return read_object(
        folder / name,
        error=CheckpointFlaw,
        remedy="the file is damaged",
        most_bytes=TRAINING_LOG_BYTES,
    )


def _folders(training: Path) -> dict[int, Path]:
    """Return the checkpoints by their step, the newest first; links are left out."""
    found = {}
    for path in training.iterdir():
        step = _step_of(path)
        if step is not None and path.is_dir() and not path.is_symlink():
            found[step] = path
    return dict(sorted(found.items(), reverse=True))


def _step_of(folder: Path) -> int | None:
    found = _NAME.fullmatch(folder.name)
    return None if found is None else int(found[1])


def remove_checkpoint(folder: Path) -> None:
    """Remove the files of a checkpoint, the seal first."""
    with suppress(OSError):
        (folder / SEAL_NAME).unlink(missing_ok=True)
    remove_files(folder, lambda name: matches(name, (*CHECKPOINT_FILES, SEAL_DRAFTS)))
