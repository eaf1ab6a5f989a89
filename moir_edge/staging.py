"""Write a folder so that it appears whole or not at all: bundles, reports and checkpoints all go through here.

The work happens in a hidden sibling folder, which a rename puts in place at the end. What a killed process leaves
behind keeps its hidden name, and the next write of the same output removes it.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moir_edge.errors import EnvironmentProblem, MoirEdgeError

__all__ = ["PID_NAME", "FolderKind", "check_replaceable", "staged_folder"]

PID_NAME = ".pid"
"""In a staging folder: the process that writes it."""


@dataclass(frozen=True, kw_only=True)
class FolderKind:
    """What sort of folder is written.

    Attributes:
        name: As a message calls it, such as ``"bundle"``.
        marker: The file by which one is told from any other folder.
        error: Raised when an output may not be replaced.
    """

    name: str
    marker: str
    error: type[MoirEdgeError]


def check_replaceable(output: str | Path, kind: FolderKind, *, force: bool) -> None:
    """Refuse an output that may not be written; call it before long work, so that a refusal costs nothing.

    Args:
        output: The folder to be; an empty folder counts as free.
        kind: What is going to be written.
        force: Allow replacing a folder of that kind. Any other folder is refused even so.

    Raises:
        MoirEdgeError: `kind.error`, if something stands there that may not be replaced.
    """
    target = Path(output)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not force:
        raise kind.error(f"{target} exists; give another -o or replace it with --force")
    if not (target / kind.marker).is_file():
        raise kind.error(
            f"{target} exists and is no {kind.name}, so --force will not replace it; "
            "remove it yourself"
        )


@contextmanager
def staged_folder(output: str | Path, kind: FolderKind, *, force: bool = False) -> Iterator[Path]:
    """Give a temporary folder that becomes `output` when the block ends without an error.

    Args:
        output: The folder to be.
        kind: What is written; the block must have written its marker by the end.
        force: Replace a folder of that kind.

    Yields:
        The temporary folder, on the same file system as `output`.

    Raises:
        MoirEdgeError: `kind.error`, if `output` may not be replaced or the marker is missing.
        EnvironmentProblem: The disk is full or not writable.
    """
    check_replaceable(output, kind, force=force)
    target = Path(output).absolute()
    staging = target.parent / f".{target.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        staging.mkdir()
        (staging / PID_NAME).write_text(str(os.getpid()))
        yield staging
        (staging / PID_NAME).unlink()
        if not (staging / kind.marker).is_file():
            raise kind.error(f"{output}: no {kind.marker} was written, so there is no {kind.name}")
        _swap(staging, target)
    except OSError as error:
        raise _environment_problem(output, target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _swap(staging: Path, target: Path) -> None:
    """Put `staging` at `target`; what stands there is moved aside first and removed last."""
    old = target.parent / f".{target.name}.partial-{uuid.uuid4().hex[:8]}"
    if target.exists():
        target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    """Remove staging folders of the same output whose process is gone."""
    for folder in target.parent.glob(f".{target.name}.partial-*"):
        if not _is_running(folder / PID_NAME):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
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
