"""Write a folder so that it appears whole or not at all: bundles, reports and checkpoints all go through here.

The work happens in a hidden sibling folder. At the end its files are brought to the disk, and it is put in place, see
`moir_edge.replacing`. A lock on a file beside the hidden folder says that its process lives. The next write of the same
output removes what dead processes left. A folder that is replaced loses only the files that moir-edge wrote; where it
holds others it is refused, see `moir_edge.ownership`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moir_edge.disk import make_folder, probe, sync, sync_tree, write_problem
from moir_edge.errors import MoirEdgeError
from moir_edge.locks import FileLock, wait_for_lock
from moir_edge.ownership import FolderKind, write_record
from moir_edge.replacing import (
    LOCK_SUFFIX,
    clear,
    new_lock,
    put_in_place,
    refuse_foreign,
    remove_abandoned,
    staging_of,
)

__all__ = ["FolderKind", "check_replaceable", "staged_folder"]

_PATIENCE_SECONDS = 60
_TRIES = 50


def check_replaceable(
    output: str | Path, kind: FolderKind, *, force: bool, keep_others: bool = False
) -> None:
    """Refuse an output that may not be written; call it before long work, so that a refusal costs nothing.

    Args:
        output: The folder to be; an empty folder counts as free.
        kind: What is going to be written.
        force: Allow replacing a folder of that kind. Any other folder is refused even so.
        keep_others: Files that moir-edge did not write are no reason to refuse, because they stay.

    Raises:
        MoirEdgeError: `kind.error`, if something stands there that may not be replaced.
        EnvironmentProblem: The folder around it cannot be written.
    """
    target = Path(os.path.realpath(output))
    try:
        probe(target.parent)
        for left in reversed(range(_TRIES)):
            before = _identity(target)
            try:
                _check(target, output, kind, force=force, keep_others=keep_others)
                return
            except (MoirEdgeError, OSError):
                # Half of what was seen may be of the folder that another process has just replaced.
                if left == 0 or _identity(target) == before:
                    raise
    except OSError as error:
        raise write_problem(output, error) from error


@contextmanager
def staged_folder(
    output: str | Path, kind: FolderKind, *, force: bool = False, keep_others: bool = False
) -> Iterator[Path]:
    """Give a temporary folder that becomes `output` when the block ends without an error.

    Args:
        output: The folder to be; a link is followed.
        kind: What is written; the block must have written its marker by the end.
        force: Replace a folder of that kind that holds nothing else.
        keep_others: Move files that moir-edge did not write from the replaced folder into the new one.

    Yields:
        The temporary folder, on the same file system as `output`.

    Raises:
        MoirEdgeError: `kind.error`, if `output` may not be replaced or the marker is missing.
        EnvironmentProblem: The disk is full or not writable.
    """
    check_replaceable(output, kind, force=force, keep_others=keep_others)
    target = Path(os.path.realpath(output))
    lock: FileLock | None = None
    try:
        make_folder(target.parent)
        with _turn(target, output, kind):
            remove_abandoned(target, kind)
        lock = new_lock(target)
        # Whatever a power cut leaves of the staging folder, its lock is there to tell what it is.
        sync(target.parent)
        staging = staging_of(lock)
        staging.mkdir()
        yield staging
        if not (staging / kind.marker).is_file():
            raise kind.error(f"{output}: no {kind.marker} was written, so there is no {kind.name}")
        if kind.listed is None:
            write_record(staging, kind)
        sync_tree(staging)
        with _turn(target, output, kind):
            # Another process may have written here while this one worked.
            check_replaceable(output, kind, force=force, keep_others=keep_others)
            put_in_place(lock, target, kind, output, force=force, keep_others=keep_others)
    except OSError as error:
        raise write_problem(output, error) from error
    finally:
        if lock is not None:
            clear(lock)


def _check(
    target: Path, output: str | Path, kind: FolderKind, *, force: bool, keep_others: bool
) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir():
        raise kind.error(f"{output} is a file; give a folder as `output`")
    if not force:
        raise kind.error(f"{output} exists; give another `output` or replace it with `force=True`")
    refuse_foreign(target, output, kind, keep_others=keep_others)


def _identity(target: Path) -> tuple[int, int] | None:
    """Return what tells a folder, and its content of the moment, from any other at the same place."""
    try:
        facts = target.stat()
    except FileNotFoundError:
        return None
    return facts.st_ino, facts.st_ctime_ns


@contextmanager
def _turn(target: Path, output: str | Path, kind: FolderKind) -> Iterator[None]:
    """Be the only process of moir-edge that changes what stands at an output; the others wait."""
    path = target.with_name(f".{target.name}.turn{LOCK_SUFFIX}")
    lock = wait_for_lock(path, seconds=_PATIENCE_SECONDS)
    if lock is None:
        raise kind.error(f"{output} exists: another process is replacing it; try again later")
    try:
        yield
    finally:
        lock.release(remove=True)
