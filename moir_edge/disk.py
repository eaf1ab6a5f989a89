"""Bring files to the disk itself, and say in one line why something cannot be written."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from pathlib import Path

from moir_edge.errors import EnvironmentProblem

__all__ = ["exchange", "make_folder", "probe", "sync", "sync_tree", "write_problem"]


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sync(path: Path) -> None:
    """Return once the content of a file, or the names in a folder, would survive a power cut.

    Raises:
        OSError: The disk is full or broken.
    """
    if os.name == "nt":  # neither folders nor files opened for reading can be synchronized there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those around it, so that all of them survive a power cut; one that exists stays.

    Raises:
        OSError: Something else stands there, or the disk is full or not writable.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync_tree(folder: Path) -> None:
    """Bring every file of a folder, and the folder itself, to the disk; links are not followed."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            if not (Path(place) / name).is_symlink():
                sync(Path(place) / name)
        sync(Path(place))


def write_problem(
    output: str | Path, error: OSError, *, advice: str = "give another `output`"
) -> EnvironmentProblem:
    """Return the error of an output that cannot be written, after everything half-written was removed.

    Args:
        output: As the user gave it.
        error: What the system said.
        advice: What helps beside more space.
    """
    target = Path(os.path.realpath(output))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentProblem(
            f"disk full while writing {output}{_free(target)}; free some space or {advice}; nothing was left behind"
        )
    return EnvironmentProblem(
        f"cannot write {output}: {_reason(error, target)}; nothing was left behind"
    )


def _free(target: Path) -> str:
    """Return how much space is left where a file or folder goes; nothing for a device."""
    if target.exists() and not (target.is_file() or target.is_dir()):
        return ""
    parent = next(parent for parent in target.parents if parent.exists())
    return f" ({shutil.disk_usage(parent).free / 1e6:.0f} MB free)"


def _reason(error: OSError, target: Path) -> str:
    """Return what the system said, with the file unless that is the output itself or hidden beside it."""
    reason = error.strerror or str(error)
    name = "" if error.filename is None else os.fsdecode(error.filename)
    own = (str(target), str(target.with_name(f".{target.name}.")))
    if not name or name == own[0] or name.startswith(own[1]):
        return reason
    return f"{reason}: {name}"


def exchange(left: Path, right: Path) -> bool:
    """Exchange two names by Linux's `renameat2`; False where the system or its file system has none."""
    function = (
        getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if os.name == "posix"
        else None
    )
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(left), None, str(right))


def probe(folder: Path) -> None:
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
