"""Locks on files: held by an open file, given up by the system when the process ends, whatever its number or container."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

__all__ = ["FileLock", "take_lock"]


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
        """Replace the text of the file, on the disk itself before this returns."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, text.encode("ascii"))
        os.fsync(self._descriptor)

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


def take_lock(path: Path, *, mode: int = 0o600) -> FileLock | None:
    """Lock a file, made if it does not exist, without waiting.

    Args:
        path: The file.
        mode: Permissions of a file that is made here, less those that the user's mask forbids.

    Returns:
        The lock, or None where somebody else holds it or has just removed the file.

    Raises:
        OSError: The file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), mode)
    if _lock(descriptor) and _is_same(descriptor, path):
        return FileLock(path, descriptor)
    os.close(descriptor)
    return None


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
