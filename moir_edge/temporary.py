"""Temporary folders and files: they hold users' images and float graphs, so nobody else can read them and none stays behind.

A folder goes with its block, its object or the process, also after SIGTERM and Ctrl-C. A process that is killed leaves its
folders; the first folder that any later process makes removes them. A lock inside each folder says that its process lives.
A file system without locks keeps them, because nothing says that they are dead.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import uuid
import weakref
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO

from moir_edge.errors import EnvironmentProblem
from moir_edge.locks import FileLock, take_lock

__all__ = ["TemporaryFolder", "nameless_file"]

_NAME = re.compile(r"moir-edge-[0-9a-f]{12}")
_LOCK = ".moir-edge.lock"
_FILES = "files"


class TemporaryFolder:
    """A folder of this user alone, removed when the block ends, else with this object or with the process.

    A forked process does not remove what its parent made.

    Attributes:
        path: The folder, empty at first.

    Raises:
        EnvironmentProblem: The system's folder for temporary files cannot be written.
    """

    def __init__(self) -> None:
        try:
            root = Path(tempfile.gettempdir())
            _sweep(root)
            lock = _new_folder(root)
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot make a temporary folder: {error.strerror or error} ({error.filename or 'no folder'}); "
                "set TMPDIR to a folder that can be written"
            ) from error
        self.path = lock.path.with_name(_FILES)
        self.remove = weakref.finalize(self, _remove_own, lock, os.getpid())

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def nameless_file() -> IO[bytes]:
    """Return a temporary file that has no name where the system can do that, so that nothing of it can stay behind."""
    return tempfile.TemporaryFile()


def _new_folder(root: Path) -> FileLock:
    """Make the outer folder with its lock, and the inner one for the files."""
    while True:
        folder = root / f"moir-edge-{uuid.uuid4().hex[:12]}"
        folder.mkdir(mode=0o700)
        # Another process may take the new folder for an abandoned one, until it is locked.
        with suppress(FileNotFoundError):
            lock = _filled(folder)
            if lock is not None:
                return lock


def _filled(folder: Path) -> FileLock | None:
    """Put the lock and the inner folder into a new folder; None where a sweep had the lock first."""
    try:
        lock = take_lock(folder / _LOCK, new=True)
        if lock is not None:
            (folder / _FILES).mkdir(mode=0o700)
    except FileNotFoundError:  # a sweep removed the folder
        raise
    except OSError:  # no room
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return lock


def _remove_own(lock: FileLock, process: int) -> None:
    if os.getpid() == process:
        _remove(lock)


def _remove(lock: FileLock) -> None:
    """Remove the files, then the lock, then the folder: killed at any point, the next sweep goes on."""
    folder = lock.path.parent
    shutil.rmtree(folder / _FILES, ignore_errors=True)
    if (folder / _FILES).exists():  # held open, on Windows
        lock.release()
        return
    lock.release(remove=True)
    with suppress(OSError):  # a sweep was faster
        folder.rmdir()


@cache
def _sweep(root: Path) -> None:
    """Remove what killed processes of this user left, once in the life of this process."""
    found: list[Path] = []
    with suppress(OSError), os.scandir(root) as entries:  # a folder that cannot be listed
        found = [Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name)]
    for folder in found:
        with suppress(OSError):  # somebody else removes it
            if _is_ours(folder):
                _remove_abandoned(folder)


def _is_ours(folder: Path) -> bool:
    """Say whether this is a folder of this user that holds what a temporary folder holds; a link is not one."""
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or (os.name == "posix" and facts.st_uid != os.getuid()):
        return False
    return set(os.listdir(folder)) <= {_LOCK, _FILES}


def _remove_abandoned(folder: Path) -> None:
    had_lock = (folder / _LOCK).exists()
    lock = take_lock(folder / _LOCK)
    if lock is None:
        return
    if had_lock:
        _remove(lock)
        return
    # Killed before the lock was made or after it was removed, or made anew by a child process: nothing lies inside, or
    # the folder is not ours.
    with suppress(OSError):
        (folder / _FILES).rmdir()
    lock.release(remove=True)
    folder.rmdir()
