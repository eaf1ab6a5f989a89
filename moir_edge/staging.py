"""Write a folder so that it appears whole or not at all: bundles, reports and checkpoints all go through here.

The work happens in a hidden sibling folder, which a rename puts in place at the end. What a killed process leaves
behind keeps its hidden name, and the next write of the same output removes it. A folder that is replaced loses only the
files that moir-edge wrote; where it holds others it is refused, see `moir_edge.ownership`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from moir_edge.errors import EnvironmentProblem
from moir_edge.ownership import (
    FolderKind,
    foreign_files,
    name_some,
    owned_files,
    remove_files,
    write_record,
)

__all__ = ["PID_NAME", "FolderKind", "check_replaceable", "staged_folder"]

PID_NAME = ".pid"
"""In a staging folder: the process that writes it."""


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
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return
        if not target.is_dir():
            raise kind.error(f"{output} is a file; give a folder as -o")
        if not force:
            raise kind.error(f"{output} exists; give another -o or replace it with --force")
        _refuse_foreign(target, output, kind, keep_others=keep_others)
    except OSError as error:
        raise _environment_problem(output, target, error) from error


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
    staging = _hidden(target, "partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        staging.mkdir()
        (staging / PID_NAME).write_text(str(os.getpid()))
        yield staging
        (staging / PID_NAME).unlink()
        if not (staging / kind.marker).is_file():
            raise kind.error(f"{output}: no {kind.marker} was written, so there is no {kind.name}")
        if kind.listed is None:
            write_record(staging, kind)
        # Another process may have written here while this one worked.
        check_replaceable(output, kind, force=force, keep_others=keep_others)
        _swap(staging, target, kind, output, force=force, keep_others=keep_others)
    except OSError as error:
        raise _environment_problem(output, target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_foreign(
    folder: Path, output: str | Path, kind: FolderKind, *, keep_others: bool = False
) -> None:
    """Raise unless moir-edge wrote all that lies in `folder`, which stands at `output` or was moved from there."""
    owned = owned_files(folder, kind)
    if owned is None:
        raise kind.error(
            f"{output} exists and is not a {kind.name} that moir-edge wrote, so --force will not replace it; "
            "give another -o or remove it yourself"
        )
    others = foreign_files(folder, owned.__contains__)
    if others and not keep_others:
        raise kind.error(
            f"{output} holds files that moir-edge did not write ({name_some(others)}), so --force will not replace "
            "it; move them away or give another -o"
        )


def _swap(
    staging: Path,
    target: Path,
    kind: FolderKind,
    output: str | Path,
    *,
    force: bool,
    keep_others: bool,
) -> None:
    """Put `staging` at `target`; what stands there is moved aside first, and its own files are removed last."""
    if not force or not target.exists():
        _rename_to_free(staging, target, kind, output)
        return
    old = _hidden(target, "replaced")
    target.rename(old)
    try:
        if any(old.iterdir()):  # nothing can be added under the old name any more
            _refuse_foreign(old, output, kind, keep_others=keep_others)
        staging.rename(target)
    except BaseException:
        old.rename(target)
        raise
    listed = replace(kind, names=()) if keep_others else kind  # a name alone is not worth a file
    owned = owned_files(old, listed) or frozenset()
    for path in foreign_files(old, owned.__contains__):
        _move_over(old / path, target / path)
    remove_files(old, owned.__contains__)


def _rename_to_free(staging: Path, target: Path, kind: FolderKind, output: str | Path) -> None:
    """Rename to a name that is free, or that an empty folder has; the system itself refuses any other."""
    try:
        staging.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise kind.error(
            f"{output} exists: another process wrote it meanwhile; give another -o"
        ) from error


def _move_over(source: Path, destination: Path) -> None:
    """Move one file into the new folder, unless the new folder has one of that name."""
    if os.path.lexists(destination):
        destination = destination.with_name(f"{destination.name}.old")
    destination.parent.mkdir(parents=True, exist_ok=True)
    source.rename(destination)


def _hidden(target: Path, state: str) -> Path:
    return target.parent / f".{target.name}.{state}-{uuid.uuid4().hex[:8]}"


def _probe(folder: Path) -> None:
    """Raise `OSError` unless something can be written into `folder`, or into the nearest one around it that exists."""
    while not folder.exists():
        folder = folder.parent
    os.rmdir(tempfile.mkdtemp(prefix=".moir-edge-", dir=folder))


def _remove_abandoned(target: Path) -> None:
    """Remove staging folders of the same output whose process is gone."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.partial-[0-9a-f]{{8}}")
    for folder in target.parent.iterdir():
        pid_file = folder / PID_NAME
        if ours.fullmatch(folder.name) and pid_file.is_file() and not _is_running(pid_file):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except PermissionError:  # it runs, for another user
        return True
    except (OSError, ValueError):
        return False
    return True


def _environment_problem(output: str | Path, target: Path, error: OSError) -> EnvironmentProblem:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        parent = next(parent for parent in target.parents if parent.exists())
        free_mb = shutil.disk_usage(parent).free / 1e6
        return EnvironmentProblem(
            f"disk full while writing {output} ({free_mb:.0f} MB free); "
            "free some space or give another -o; nothing was left behind"
        )
    return EnvironmentProblem(f"cannot write {output}: {error}; nothing was left behind")
