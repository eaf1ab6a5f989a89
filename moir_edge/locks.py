"""Locks on files: held by an open file, given up by the system when the process ends, whatever its number or container."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

__all__ = ["FileLock", "take_lock", "wait_for_lock"]

_WAIT_SECONDS = 0.01
# What a file system without locks answers; the last is the kernel's own ENOTSUPP, which has no name.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, 524)


class FileLock:
    """A lock that is held until `release` or the end of the process; see `take_lock`.

    Attributes:
        path: The locked file.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def read(self) -> str:
        """Return the text of the file."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return os.read(self._descriptor, 1024).decode("ascii", "replace")

    def write(self, text: str) -> None:
        """Replace the text of the file, on the disk itself before this returns; after an error it has none."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.ftruncate(self._descriptor, 0)
        try:
            os.write(self._descriptor, text.encode("ascii"))
            os.fsync(self._descriptor)
        except BaseException:
            os.ftruncate(self._descriptor, 0)
            raise

    def stream(self) -> BinaryIO:
        """Return a stream that writes the file; closing it does not give the lock up."""
        return os.fdopen(os.dup(self._descriptor), "r+b")

    def release(self, *, remove: bool = False) -> None:
        """Give the lock up, once; `remove` deletes the file before anybody else can have it."""
        if self._descriptor < 0:
            return
        if remove and os.name != "nt":
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1
        if remove and os.name == "nt":  # an open file cannot be deleted there
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def take_lock(path: Path, *, mode: int = 0o600, new: bool = False) -> FileLock | None:
    """Lock a file, made if it does not exist, without waiting.

    On a file system without locks a file that others made counts as held, so that nothing of theirs is ever removed.

    Args:
        path: The file.
        mode: Permissions of a file that is made here, less those that the user's mask forbids.
        new: The file is the caller's own; without locks it counts as locked.

    Returns:
        The lock, or None where somebody else holds it or has just removed the file.

    Raises:
        OSError: The file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), mode)
    try:
        locked = _lock(descriptor)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            os.close(descriptor)
            raise
        locked = new
    if locked and _is_same(descriptor, path):
        return FileLock(path, descriptor)
    os.close(descriptor)
    return None


def wait_for_lock(path: Path, *, seconds: float) -> FileLock | None:
    """Lock a file as `take_lock` does, and wait for whoever holds it; without locks it counts as locked at once.

    Args:
        path: The file.
        seconds: How long to wait at most.

    Returns:
        The lock; None where somebody else held it all the time.

    Raises:
        OSError: The file cannot be opened.
    """
    until = time.monotonic() + seconds
    while True:
        lock = take_lock(path, new=True)
        if lock is not None or time.monotonic() > until:
            return lock
        time.sleep(_WAIT_SECONDS)


def _lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_same(descriptor: int, path: Path) -> bool:
    """Say whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
