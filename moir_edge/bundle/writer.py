"""Write a bundle so that it appears whole or not at all.

Everything goes to a hidden sibling folder without a manifest; `seal` hashes the files and writes the manifest
last; a rename puts the folder in place. A process killed at any point leaves no folder that `open_bundle` takes.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moir_edge.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from moir_edge.bundle.reader import file_sha256
from moir_edge.errors import BundleError, EnvironmentProblem

__all__ = ["check_replaceable", "seal", "staged_bundle"]


@contextmanager
def staged_bundle(output: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Give a temporary folder that becomes `output` when the block ends without an error.

    Args:
        output: The bundle folder to be.
        force: Replace a bundle that stands there. Any other folder is refused even so.

    Yields:
        The temporary folder, on the same file system. `seal` must have been called on it by the end.

    Raises:
        BundleError: `output` exists and may not be replaced, or the block did not seal the folder.
        EnvironmentProblem: The disk is full or not writable.
    """
    target = Path(output)
    check_replaceable(target, force=force)
    staging = target.parent / f".{target.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        staging.mkdir()
        (staging / ".pid").write_text(str(os.getpid()))
        yield staging
        (staging / ".pid").unlink()
        if not (staging / MANIFEST_NAME).is_file():
            raise BundleError(f"{target}: the bundle was never sealed; nothing was written")
        _swap(staging, target)
    except OSError as error:
        raise _environment_problem(target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every file of `folder` and write the manifest, the last file of a bundle.

    Args:
        folder: The folder that `staged_bundle` gave.
        manifest: The manifest; its `files` is filled in here.

    Returns:
        The manifest as written.
    """
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".pid", MANIFEST_NAME)
    )
    files = tuple(
        FileEntry(
            path=path.relative_to(folder).as_posix(),
            bytes=path.stat().st_size,
            sha256=file_sha256(path),
        )
        for path in paths
    )
    sealed = manifest.model_copy(update={"files": files})
    (folder / MANIFEST_NAME).write_text(sealed.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return sealed


def check_replaceable(target: Path, *, force: bool) -> None:
    """Raise `BundleError` unless `target` is free, or `force` is set and it is a bundle.

    Call it before long work, so that a refusal costs nothing.
    """
    if not target.exists():
        return
    if not force:
        raise BundleError(f"{target} exists; give another -o or replace it with --force")
    if not (target / MANIFEST_NAME).is_file():
        raise BundleError(
            f"{target} exists and is no bundle, so --force will not replace it; remove it yourself"
        )


def _swap(staging: Path, target: Path) -> None:
    """Put `staging` at `target`; an old bundle is moved aside first and removed last."""
    old = target.parent / f".{target.name}.replaced-{uuid.uuid4().hex[:8]}"
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
    """Remove staging folders of exports of this output that were killed."""
    for folder in target.parent.glob(f".{target.name}.partial-*"):
        if not _is_running(folder / ".pid"):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


def _environment_problem(target: Path, error: OSError) -> EnvironmentProblem:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free_mb = shutil.disk_usage(_existing_parent(target)).free / 1e6
        return EnvironmentProblem(
            f"disk full while writing {target} ({free_mb:.0f} MB free); "
            "free some space or give another -o; nothing was left behind"
        )
    return EnvironmentProblem(f"cannot write {target}: {error}; nothing was left behind")


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())
