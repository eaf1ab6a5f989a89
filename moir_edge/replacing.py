"""Put a finished folder in the place of an old one, and finish or undo that after a process that was killed in the middle.

Where the system can, the two folders change places in one step. Where it cannot, the old one is moved aside and the new
one takes its place; the old one comes back if the process dies between the two renames. Where a folder cannot be moved at all,
as in a container whose image holds it, its files are removed first; what the process could not do the next write does.

The text of the lock says how far a process came.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from moir_edge.disk import exchange, sync
from moir_edge.locks import FileLock, take_lock
from moir_edge.ownership import (
    RECORD_NAME,
    FolderKind,
    foreign_files,
    name_some,
    owned_files,
    remove_files,
)

__all__ = [
    "LOCK_SUFFIX",
    "clear",
    "new_lock",
    "put_in_place",
    "refuse_foreign",
    "remove_abandoned",
    "staging_of",
]

LOCK_SUFFIX = ".lock"
_WRITING = "writing"
_REPLACING = "replacing"
_REMOVING = "removing"


def refuse_foreign(
    folder: Path, output: str | Path, kind: FolderKind, *, keep_others: bool = False
) -> None:
    """Refuse a folder, which stands at `output` or was moved from there, unless moir-edge wrote all that lies in it.

    Args:
        folder: The folder.
        output: As the user gave it.
        kind: What it should be.
        keep_others: Only a folder of another kind is refused.

    Raises:
        MoirEdgeError: `kind.error`, with the names of some files.
    """
    owned = owned_files(folder, kind)
    if owned is None:
        raise kind.error(
            f"{output} exists and is not a {kind.name} that moir-edge wrote, so `force=True` will not replace it; "
            "give another `output` or remove it yourself"
        )
    others = foreign_files(folder, owned.__contains__)
    if others and not keep_others:
        raise kind.error(
            f"{output} holds files not written by moir-edge ({name_some(others)}), so `force=True` will not replace "
            "it; move them away or give another `output`"
        )


def put_in_place(
    lock: FileLock,
    target: Path,
    kind: FolderKind,
    output: str | Path,
    *,
    force: bool,
    keep_others: bool,
) -> None:
    """Put the finished folder at `target`; what stands there changes places with it, and its own files are removed last.

    Args:
        lock: Of the staging folder, whose files are on the disk.
        target: Where it goes; no link.
        kind: What both folders are.
        output: `target` as the user gave it.
        force: Replace what stands there.
        keep_others: Move files that moir-edge did not write into the new folder.

    Raises:
        MoirEdgeError: `kind.error`, if something stands there that may not be replaced.
        OSError: The file system refuses a step; what stood there stands there still.
    """
    staging = staging_of(lock)
    if not force or not target.exists():
        _rename_to_free(staging, target, kind, output)
        sync(target.parent)
        return

    def check(old: Path) -> None:
        if any(old.iterdir()):  # nothing can be added under the old name any more
            refuse_foreign(old, output, kind, keep_others=keep_others)

    listed = replace(kind, names=()) if keep_others else kind  # a name alone is not worth a file
    lock.write(_REPLACING)
    try:
        if not _exchanged(lock, target, check):
            _rename_both(lock, target, check)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        check(target)
        _remove_first(lock, target, listed)
        return
    sync(target.parent)
    for old in (staging, _replaced_of(staging)):
        _retire(old, target, listed)


def _exchanged(lock: FileLock, target: Path, check: Callable[[Path], None]) -> bool:
    """Let the new folder and the old one change places in one step; False where the system cannot."""
    staging = staging_of(lock)
    try:
        done = exchange(staging, target)
    except OSError:
        lock.write(_WRITING)
        raise
    if not done:
        return False
    try:
        check(staging)
    except BaseException:
        if exchange(staging, target):
            sync(target.parent)
            lock.write(_WRITING)
        raise
    return True


def _rename_both(lock: FileLock, target: Path, check: Callable[[Path], None]) -> None:
    """Move the old folder aside and the new one in its place; the old one comes back if that fails."""
    staging = staging_of(lock)
    old = _replaced_of(staging)
    try:
        target.rename(old)
    except OSError:
        lock.write(_WRITING)
        raise
    try:
        check(old)
        staging.rename(target)
    except BaseException:
        old.rename(target)
        sync(target.parent)
        lock.write(_WRITING)
        raise


def _remove_first(lock: FileLock, target: Path, kind: FolderKind) -> None:
    """Remove the old folder's files, then put the new one in its place.

    A container cannot move a folder that is part of its image (overlayfs answers `EXDEV`), only its files.
    """
    sync(
        target.parent
    )  # the user's files move into the new folder, which has to be there after a power cut
    lock.write(_REMOVING)
    try:
        _go_on_removing(lock, target, kind)
    except (KeyboardInterrupt, SystemExit):
        _go_on_removing(lock, target, kind)
        raise


def _go_on_removing(lock: FileLock, target: Path, kind: FolderKind) -> None:
    staging = staging_of(lock)
    if staging.exists():
        _retire(target, staging, kind)
        staging.rename(target)
    sync(target.parent)


def _retire(old: Path, target: Path, kind: FolderKind) -> None:
    """Remove the files of a folder that moir-edge wrote, and move all others into the folder that took its place."""
    owned = owned_files(old, kind) if old.exists() else None
    if owned is None:
        with suppress(OSError):  # it does not exist, or holds nothing that is known
            old.rmdir()
        return
    for path in foreign_files(old, owned.__contains__):
        _move_over(old / path, target / path)
    # What tells that the folder is ours goes last, so that a process that is killed here leaves nothing unknown.
    telling = {kind.marker, RECORD_NAME}
    for names in (owned - telling, {kind.marker}, owned):
        remove_files(old, names.__contains__)
        if old.exists():
            sync(old)


def _rename_to_free(staging: Path, target: Path, kind: FolderKind, output: str | Path) -> None:
    """Rename to a name that is free, or that an empty folder has; the system itself refuses any other."""
    try:
        staging.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise kind.error(
            f"{output} exists: another process wrote it meanwhile; give another `output`"
        ) from error


def _move_over(source: Path, destination: Path) -> None:
    """Move one file into the new folder, unless the new folder has one of that name."""
    if os.path.lexists(destination):
        destination = destination.with_name(f"{destination.name}.old")
    destination.parent.mkdir(parents=True, exist_ok=True)
    source.rename(destination)
    sync(destination.parent)


def new_lock(target: Path) -> FileLock:
    """Lock a new hidden file beside the output; the staging folder has its name without the suffix."""
    while True:
        path = target.parent / f".{target.name}.partial-{uuid.uuid4().hex[:8]}{LOCK_SUFFIX}"
        lock = take_lock(path, new=True)
        if lock is None:  # another process took it for an abandoned one
            continue
        try:
            lock.write(_WRITING)
        except BaseException:
            lock.release(remove=True)
            raise
        return lock


def staging_of(lock: FileLock) -> Path:
    """Return the hidden folder to which a lock belongs."""
    return lock.path.with_name(lock.path.name.removesuffix(LOCK_SUFFIX))


def _replaced_of(staging: Path) -> Path:
    return staging.with_name(staging.name.replace(".partial-", ".replaced-"))


def remove_abandoned(target: Path, kind: FolderKind) -> None:
    """Finish or undo what dead processes began at the same output, and remove what they left.

    Args:
        target: The output; no link.
        kind: What it is.
    """
    ours = re.compile(rf"\.{re.escape(target.name)}\.partial-[0-9a-f]{{8}}{re.escape(LOCK_SUFFIX)}")
    for path in sorted(target.parent.iterdir()):
        lock = take_lock(path) if ours.fullmatch(path.name) else None
        if lock is None:
            continue
        staging, state = staging_of(lock), lock.read()
        if state == _REMOVING:
            with suppress(OSError):  # somebody's files are in the way
                _go_on_removing(lock, target, kind)
        if state == _REPLACING:
            replaced = _replaced_of(staging)
            if replaced.exists() and not target.exists():
                replaced.rename(target)
                sync(target.parent)
            for old in (staging, replaced):
                _retire(old, target, kind)
            if staging.exists() or replaced.exists():  # somebody's files are in it
                lock.release()
                continue
        clear(lock)


def clear(lock: FileLock) -> None:
    """Remove the staging folder and its lock; a folder that was replaced and holds files of others stays."""
    staging = staging_of(lock)
    if lock.read() not in (_REPLACING, _REMOVING):
        shutil.rmtree(staging, ignore_errors=True)
    if staging.exists() or _replaced_of(staging).exists():
        lock.release()
        return
    with suppress(OSError):  # a broken disk has its own message
        sync(staging.parent)  # a folder that came back after a power cut would have no lock
    lock.release(remove=True)
