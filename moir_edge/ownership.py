"""Tell the files that moir-edge wrote into a folder from all others, so that `--force` never deletes what belongs to the user.

Each folder keeps a record of its files: a bundle in its manifest, any other in `.moir-edge.json`. Versions before the record are
recognized by the keys of their marker and the names that they wrote.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from moir_edge.errors import DataError, MoirEdgeError
from moir_edge.finite import json_text
from moir_edge.json_files import read_object
from moir_edge.limits import REPORT_BYTES

__all__ = [
    "CHECKPOINT",
    "RECORD_NAME",
    "FolderKind",
    "foreign_files",
    "matches",
    "name_some",
    "owned_files",
    "remove_files",
    "write_record",
]

RECORD_NAME = ".moir-edge.json"
"""The record of a folder: its kind, and the path of each file that moir-edge wrote, relative to the folder."""

_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class FolderKind:
    """One kind of folder that moir-edge writes.

    Attributes:
        name: As a message calls it, such as ``"bundle"``.
        marker: The JSON file by which a folder is known; it may be empty where `keys` is.
        error: Raised when an output may not be replaced.
        keys: Keys that the marker of a folder without record must have, to be one of ours.
        names: Patterns of further files of a folder without record; ``*`` stays within one part of a path.
        listed: Reads the files from the marker; a kind that has it needs no record.
    """

    name: str
    marker: str
    error: type[MoirEdgeError]
    keys: tuple[str, ...]
    names: tuple[str, ...] = ()
    listed: Callable[[Mapping[str, Any]], Iterable[str]] | None = None


def owned_files(folder: Path, kind: FolderKind) -> frozenset[str] | None:
    """Return the files of `folder` that moir-edge wrote; None if the folder is not of that kind.

    Args:
        folder: A folder that exists.
        kind: What it should be.

    Returns:
        Paths relative to the folder, with forward slashes. Some may be gone.
    """
    record = _read_object(folder / RECORD_NAME)
    if record is not None and kind.listed is None:
        files = record.get("files")
        if record.get("kind") != kind.name or not isinstance(files, list):
            return None
        return frozenset([RECORD_NAME, *map(str, files)])
    marker = _read_object(folder / kind.marker)
    if marker is None or not all(key in marker for key in kind.keys):
        return None
    listed = frozenset() if kind.listed is None else frozenset(kind.listed(marker))
    present = frozenset(path for path in _files(folder) if matches(path, kind.names))
    return listed | present | {kind.marker}


def foreign_files(folder: Path, owns: Callable[[str], bool]) -> list[str]:
    """Return the files and links under `folder` that `owns` does not accept, in order.

    Raises:
        OSError: A sub-folder cannot be read.
    """
    return sorted(path for path in _files(folder) if not owns(path))


def write_record(folder: Path, kind: FolderKind, *, leave_out: Iterable[str] = ()) -> None:
    """Record every file that lies in `folder` now as written by moir-edge."""
    files = sorted(set(_files(folder)) - {RECORD_NAME, *leave_out})
    record = {"kind": kind.name, "files": files}
    (folder / RECORD_NAME).write_text(json_text(record, indent=1) + "\n", encoding="utf-8")


def remove_files(folder: Path, owns: Callable[[str], bool]) -> None:
    """Delete what `owns` accepts, and each folder that is empty then; what cannot be deleted stays."""
    for path in _files(folder):
        if owns(path):
            with suppress(OSError):
                (folder / path).unlink()
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # something is left in it
            os.rmdir(place)


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Say whether a relative path fits a pattern part by part, so that ``*`` never crosses a slash."""
    parts = path.split("/")
    return any(
        len(wanted) == len(parts) and all(map(fnmatchcase, parts, wanted))
        for wanted in (pattern.split("/") for pattern in patterns)
    )


def name_some(paths: list[str]) -> str:
    """Return the first few paths and the number of the others, for a message."""
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more


def _files(folder: Path) -> list[str]:
    """Return files, and links of every sort, which are never followed."""

    def fail(error: OSError) -> None:
        raise error

    if not folder.exists():
        return []
    found = []
    for place, folders, files in os.walk(folder, onerror=fail):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found += [(Path(place) / name).relative_to(folder).as_posix() for name in (*files, *links)]
    return found


def _read_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a file, an empty one for an empty file; None where it holds none."""
    try:
        if path.is_file() and not path.stat().st_size:
            return {}
        return read_object(path, most_bytes=REPORT_BYTES)
    except (OSError, MoirEdgeError):
        return None


CHECKPOINT = FolderKind(
    name="checkpoint",
    marker="config.json",
    error=DataError,
    keys=("moir_router",),
    names=(
        "generation_config.json",
        "model.safetensors",
        "model-*-of-*.safetensors",
        "model.safetensors.index.json",
        "*processor_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/*.jinja",
        "tuning.json",
    ),
)
"""A Hugging Face checkpoint, as `retrofit` and `tune` write it."""
