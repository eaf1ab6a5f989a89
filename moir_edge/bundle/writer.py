"""Write a bundle so that it appears whole or not at all: graphs first, the manifest with every hash last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from moir_edge.arguments import given_path, switch
from moir_edge.bundle.manifest import (
    COMPONENTS,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    manifest_sha256,
)
from moir_edge.bundle.reader import file_sha256
from moir_edge.checked import a, checked
from moir_edge.errors import BundleError
from moir_edge.finite import json_text
from moir_edge.staging import FolderKind, check_replaceable, staged_folder

__all__ = ["BUNDLE", "check_bundle_output", "seal", "staged_bundle"]


def _listed(manifest: Mapping[str, Any]) -> Iterable[str]:
    files = manifest.get("files")
    entries = files if isinstance(files, list) else []
    return [str(entry["path"]) for entry in entries if isinstance(entry, dict) and "path" in entry]


BUNDLE = FolderKind(
    name="bundle",
    marker=MANIFEST_NAME,
    error=BundleError,
    keys=("schema_version", "created_with", "components", "files"),
    # What the script for `trtexec` writes is in no manifest.
    names=tuple(f"engines/*/{name}.engine" for name in COMPONENTS),
    listed=_listed,
)


@checked(output=given_path, force=switch)
def check_bundle_output(output: str | Path, *, force: bool) -> None:
    """Raise `BundleError` unless `output` is free, or `force` is set and it is a bundle."""
    check_replaceable(output, BUNDLE, force=force)


@checked(output=given_path, force=switch, keep_others=switch)
def staged_bundle(
    output: str | Path, *, force: bool = False, keep_others: bool = False
) -> AbstractContextManager[Path]:
    """Give a temporary folder that becomes the bundle `output`; see `moir_edge.staging.staged_folder`.

    Args:
        output: The bundle folder to be.
        force: Replace a bundle that stands there. Any other folder is refused even so, and a bundle with files of
            somebody else beside its own.
        keep_others: Keep such files in the new bundle instead.
    """
    return staged_folder(output, BUNDLE, force=force, keep_others=keep_others)


@checked(folder=given_path, manifest=a(Manifest))
def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every file of `folder` and write the manifest, the last file of a bundle.

    Args:
        folder: The folder that `staged_bundle` gave.
        manifest: The manifest; its `files` and `manifest_sha256` are filled in here.

    Returns:
        The manifest as written.

    Raises:
        NotFiniteError: A figure of the manifest is NaN or infinite.
    """
    files = tuple(
        FileEntry(
            path=path.relative_to(folder).as_posix(),
            bytes=path.stat().st_size,
            sha256=file_sha256(path),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    )
    listed = manifest.model_copy(update={"files": files})
    digest = manifest_sha256(listed.model_dump(mode="json"))
    sealed = listed.model_copy(update={"manifest_sha256": digest})
    text = json_text(sealed.model_dump(mode="json"), indent=1, ensure_ascii=False)
    (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
    return sealed
