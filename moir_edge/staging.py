"""Write a folder so that it appears whole or not at all: bundles, reports and checkpoints all go through here.

The work happens in a hidden sibling folder. At the end its files are brought to the disk, and one step of the system
puts it in place: a rename, or an exchange with the folder that is replaced. A system without an exchange takes two
renames; a process that is killed between them leaves the old folder under a hidden name, and the next write brings it back.

A lock on a file beside the hidden folder says that its process lives. The next write of the same output removes what dead
processes left. A folder that is replaced loses only the files that moir-edge wrote; where it holds others it is refused,
see `moir_edge.ownership`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from moir_edge.disk import exchange, make_folder, sync, sync_tree, write_problem
from moir_edge.errors import MoirEdgeError
from moir_edge.locks import FileLock, take_lock, wait_for_lock
from moir_edge.ownership import (
    RECORD_NAME,
    FolderKind,
    foreign_files,
    name_some,
    owned_files,
    remove_files,
    write_record,
)

__all__ = ["FolderKind", "check_replaceable", "staged_folder"]

_WRITING = "writing"
_REPLACING = "replacing"
_LOCK_SUFFIX = ".lock"
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
        _probe(target.parent)
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
            _remove_abandoned(target, kind)
        lock = _new_lock(target)
        # Whatever a power cut leaves of the staging folder, its lock is there to tell what it is.
        sync(target.parent)
        staging = _staging_of(lock)
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
            _put_in_place(lock, target, kind, output, force=force, keep_others=keep_others)
    except OSError as error:
        raise write_problem(output, error) from error
    finally:
        if lock is not None:
            _clear(lock)


def _check(
    target: Path, output: str | Path, kind: FolderKind, *, force: bool, keep_others: bool
) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir():
        raise kind.error(f"{output} is a file; give a folder as `output`")
    if not force:
        raise kind.error(f"{output} exists; give another `output` or replace it with `force=True`")
    _refuse_foreign(target, output, kind, keep_others=keep_others)


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
    path = target.with_name(f".{target.name}.turn{_LOCK_SUFFIX}")
    lock = wait_for_lock(path, seconds=_PATIENCE_SECONDS)
    if lock is None:
        raise kind.error(f"{output} exists: another process is replacing it; try again later")
    try:
        yield
    finally:
        lock.release(remove=True)


def _refuse_foreign(
    folder: Path, output: str | Path, kind: FolderKind, *, keep_others: bool = False
) -> None:
    """Raise unless moir-edge wrote all that lies in `folder`, which stands at `output` or was moved from there."""
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


def _put_in_place(
    lock: FileLock,
    target: Path,
    kind: FolderKind,
    output: str | Path,
    *,
    force: bool,
    keep_others: bool,
) -> None:
    """Put the finished folder at `target`; what stands there changes places with it, and its own files are removed last."""
    staging = _staging_of(lock)
    if not force or not target.exists():
        _rename_to_free(staging, target, kind, output)
        sync(target.parent)
        return

    def check(old: Path) -> None:
        if any(old.iterdir()):  # nothing can be added under the old name any more
            _refuse_foreign(old, output, kind, keep_others=keep_others)

    lock.write(_REPLACING)
    if not _exchanged(lock, target, check):
        _rename_both(lock, target, check)
    sync(target.parent)
    listed = replace(kind, names=()) if keep_others else kind  # a name alone is not worth a file
    for old in (staging, _replaced_of(staging)):
        _retire(old, target, listed)


def _exchanged(lock: FileLock, target: Path, check: Callable[[Path], None]) -> bool:
    """Let the new folder and the old one change places in one step; False where the system cannot."""
    staging = _staging_of(lock)
    if not exchange(staging, target):
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
    staging = _staging_of(lock)
    old = _replaced_of(staging)
    target.rename(old)
    try:
        check(old)
        staging.rename(target)
    except BaseException:
        old.rename(target)
        sync(target.parent)
        lock.write(_WRITING)
        raise


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


def _new_lock(target: Path) -> FileLock:
    """Lock a new hidden file beside the output; the staging folder has its name without the suffix."""
    while True:
        path = target.parent / f".{target.name}.partial-{uuid.uuid4().hex[:8]}{_LOCK_SUFFIX}"
        lock = take_lock(path, new=True)
        if lock is None:  # another process took it for an abandoned one
            continue
        try:
            lock.write(_WRITING)
        except BaseException:
            lock.release(remove=True)
            raise
        return lock


def _staging_of(lock: FileLock) -> Path:
    return lock.path.with_name(lock.path.name.removesuffix(_LOCK_SUFFIX))


def _replaced_of(staging: Path) -> Path:
    return staging.with_name(staging.name.replace(".partial-", ".replaced-"))


def _probe(folder: Path) -> None:
    """Raise `OSError` unless something can be written into `folder`, or into the nearest one around it that exists."""
    while not folder.exists():
        folder = folder.parent
    try:
        # A file without a name leaves nothing behind, however the process ends.
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600))
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.ENOSPC):
            raise
        os.rmdir(tempfile.mkdtemp(prefix=".moir-edge-", dir=folder))


def _remove_abandoned(target: Path, kind: FolderKind) -> None:
    """Finish or undo what dead processes began at the same output, and remove what they left."""
    ours = re.compile(
        rf"\.{re.escape(target.name)}\.partial-[0-9a-f]{{8}}{re.escape(_LOCK_SUFFIX)}"
    )
    for path in sorted(target.parent.iterdir()):
        lock = take_lock(path) if ours.fullmatch(path.name) else None
        if lock is None:
            continue
        staging = _staging_of(lock)
        if lock.read() == _REPLACING:
            replaced = _replaced_of(staging)
            if replaced.exists() and not target.exists():
                replaced.rename(target)
                sync(target.parent)
            for old in (staging, replaced):
                _retire(old, target, kind)
            if staging.exists() or replaced.exists():  # somebody's files are in it
                lock.release()
                continue
        _clear(lock)


def _clear(lock: FileLock) -> None:
    """Remove the staging folder and its lock; a folder that was replaced and holds files of others stays."""
    staging = _staging_of(lock)
    if lock.read() != _REPLACING:
        shutil.rmtree(staging, ignore_errors=True)
    if staging.exists() or _replaced_of(staging).exists():
        lock.release()
        return
    with suppress(OSError):  # a broken disk has its own message
        sync(staging.parent)  # a folder that came back after a power cut would have no lock
    lock.release(remove=True)
