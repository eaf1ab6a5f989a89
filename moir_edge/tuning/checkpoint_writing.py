"""Write a training checkpoint: its files, and at last the seal that makes it whole.

The seal is written once everything else has reached the disk. So no process that is killed, and no power cut, leaves a
checkpoint that looks whole and is not.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from moir_edge.disk import sync
from moir_edge.errors import EnvironmentProblem, one_line
from moir_edge.finite import json_text
from moir_edge.ownership import matches
from moir_edge.tuning.checkpoints import (
    CHECKPOINT_FILES,
    SEAL_NAME,
    SEAL_VERSION,
    FileHash,
    checkpoint_folder,
    newest_sealed,
    remove_checkpoint,
)
from moir_edge.whole_files import write_whole

__all__ = ["HashingFile", "written_checkpoint"]

_FULL = (errno.ENOSPC, errno.EDQUOT)


class HashingFile:
    """Takes the bytes of a file in order, and hashes them on their way.

    Args:
        stream: Where they go.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> int:
        """Write bytes and return their number."""
        self._digest.update(data)
        self._bytes += len(data)
        return self._stream.write(data)

    def flush(self) -> None:
        """Hand on what the stream keeps back."""
        self._stream.flush()

    def hash(self) -> FileHash:
        """Return size and hash of what was written."""
        return FileHash(self._bytes, self._digest.hexdigest())


@contextmanager
def written_checkpoint(training: Path, step: int) -> Iterator[dict[str, FileHash]]:
    """Let the block write the checkpoint of a step, and seal it.

    Args:
        training: The run's folder.
        step: Optimiser steps made.

    Yields:
        Takes the hashes of files that are known already; the others are read again.

    Raises:
        EnvironmentProblem: The disk is full or not writable; nothing of this checkpoint is left.
    """
    folder = checkpoint_folder(training, step)
    hashes: dict[str, FileHash] = {}
    try:
        remove_checkpoint(folder)
        yield hashes
        _seal(folder, hashes)
    except (OSError, RuntimeError, SafetensorError, EnvironmentProblem) as error:
        remove_checkpoint(folder)
        raise _write_problem(folder, error) from error


def _seal(folder: Path, hashes: Mapping[str, FileHash]) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        if matches(path.name, CHECKPOINT_FILES):
            sync(path)
            files[path.name] = (hashes.get(path.name) or FileHash.of(path))._asdict()
    sync(folder)
    record = {"version": SEAL_VERSION, "files": files}
    write_whole(folder / SEAL_NAME, json_text(record, indent=1) + "\n")
    sync(folder.parent)


def _write_problem(folder: Path, error: Exception) -> EnvironmentProblem:
    """Return the error of a checkpoint that could not be written; it says from where the run goes on."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    number = cause.errno if isinstance(cause, OSError) else None
    free_mb = shutil.disk_usage(folder.parent).free / 1e6
    if number in _FULL or f"os error {errno.ENOSPC}" in str(error):
        what = f"disk full while writing the training checkpoint {folder}"
    else:
        reason = one_line(cause or error)
        what = f"cannot write the training checkpoint {folder}: {reason}"
    step = newest_sealed(folder.parent)
    remedy = "start again" if step is None else f"go on from step {step} with `resume=True`"
    return EnvironmentProblem(f"{what} ({free_mb:.0f} MB free); free some space, then {remedy}")
