"""Write a single file so that it appears whole or not at all; `moir_edge.staging` does the same for folders.

The content goes into a hidden draft beside the file. A lock on the draft says that its writer lives. The finished draft is
brought to the disk and renamed, and the next write of the same file removes the drafts of dead processes.
"""

from __future__ import annotations

import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from moir_edge.disk import make_folder, probe, sync, write_problem
from moir_edge.errors import EnvironmentProblem
from moir_edge.locks import FileLock, take_lock

__all__ = ["check_file", "whole_file", "write_whole"]

_NEW_FILE = 0o666  # the system takes away what the user's mask forbids
# Names of streams that are open already; the file behind one is not replaced but written to.
_STREAMS = ("/dev/", "/proc/")


def check_file(output: str | Path) -> None:
    """Refuse a file that cannot be written; call it before long work, so that a refusal costs nothing.

    Args:
        output: The file to be.

    Raises:
        EnvironmentProblem: A folder stands there, or the disk is full or not writable.
    """
    target = Path(os.path.realpath(output))
    try:
        if not _takes_a_stream(Path(output)):
            _mode_of(target)
            probe(target.parent)
    except OSError as error:
        raise _problem(output, error) from error


def write_whole(output: str | Path, content: str | bytes) -> None:
    """Write a file, or leave what was there; see `whole_file`.

    Args:
        output: The file; missing folders are made.
        content: Bytes, or text that is written as UTF-8.

    Raises:
        EnvironmentProblem: The disk is full or not writable.
    """
    with whole_file(output) as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def whole_file(output: str | Path) -> Iterator[BinaryIO]:
    """Give a stream whose content becomes the file `output` when the block ends without an error.

    A file that stands there is replaced and hands its permissions on; a link is followed. A device or a pipe takes the content
    as it comes.

    Args:
        output: The file to be; missing folders are made.

    Yields:
        A binary stream that can seek, unless `output` is a device or a pipe.

    Raises:
        EnvironmentProblem: The disk is full or not writable.
    """
    target = Path(os.path.realpath(output))
    try:
        if _takes_a_stream(Path(output)):
            with Path(output).open("wb") as stream:
                yield stream
            return
        mode = _mode_of(target)
        make_folder(target.parent)
        _remove_abandoned(target)
        with _draft(target, mode) as stream:
            yield stream
    except OSError as error:
        raise _problem(output, error) from error


@contextmanager
def _draft(target: Path, mode: int | None) -> Iterator[BinaryIO]:
    """Give the stream of a locked draft, which takes the target's place at the end or is removed."""
    lock = _new_lock(target)
    try:
        with lock.stream() as stream:
            yield stream
            stream.flush()
            if mode is not None:
                os.chmod(lock.path, mode)
            os.fsync(stream.fileno())
        if os.name == "nt":  # a file that is open cannot be renamed there
            lock.release()
        os.replace(lock.path, target)
        sync(target.parent)
    except BaseException:
        lock.path.unlink(missing_ok=True)
        raise
    finally:
        lock.release()


def _problem(output: str | Path, error: OSError) -> EnvironmentProblem:
    return write_problem(output, error, advice="give another path")


def _takes_a_stream(output: Path) -> bool:
    """Say whether a path is a device, a pipe or an open stream, which cannot be replaced by a file."""
    if os.path.abspath(output).startswith(_STREAMS):
        return True
    try:
        return not (stat.S_ISREG(output.stat().st_mode) or stat.S_ISDIR(output.stat().st_mode))
    except FileNotFoundError:
        return False


def _mode_of(target: Path) -> int | None:
    """Return the permissions of the file that is replaced, or None where there is none.

    Raises:
        OSError: A folder stands there, or the file may not be written.
    """
    if not target.exists():
        return None
    with target.open("r+b") as stream:
        return stat.S_IMODE(os.fstat(stream.fileno()).st_mode)


def _new_lock(target: Path) -> FileLock:
    while True:
        path = target.parent / f".{target.name}.draft-{uuid.uuid4().hex[:8]}"
        lock = take_lock(path, mode=_NEW_FILE, new=True)
        if lock is not None:  # else another process took it for an abandoned one
            return lock


def _remove_abandoned(target: Path) -> None:
    """Remove the drafts of the same file that dead processes left."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.draft-[0-9a-f]{{8}}")
    for entry in sorted(os.listdir(target.parent)):
        lock = take_lock(target.parent / entry) if ours.fullmatch(entry) else None
        if lock is not None:
            lock.release(remove=True)
