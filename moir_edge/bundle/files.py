"""The files of a model's folder: which of them may be read, and where a file of a bundle may lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moir_edge.errors import BundleError
from moir_edge.json_files import read_bounded, read_object
from moir_edge.limits import JSON_BYTES

__all__ = ["ModelFiles", "outside_folder", "path_problem"]

_REMEDY = "export the bundle again"


@dataclass(frozen=True)
class ModelFiles:
    """The files beside the weights or graphs that tell how prompts are made: tokenizer, template, processor, settings.

    Attributes:
        folder: A checkpoint's or a bundle's folder.
        listed: The files that the bundle's manifest lists, the only ones that are read; None for a checkpoint, which has no list.
    """

    folder: Path
    listed: frozenset[str] | None = None

    def find(self, name: str) -> Path | None:
        """Return the path of a file; None where the folder has none of that name.

        Args:
            name: Its name in the folder.

        Raises:
            BundleError: The file lies there, and the bundle's manifest does not list it, or it is a link out of the bundle.
        """
        path = self.folder / name
        if not os.path.isfile(path):
            return None
        if self.listed is not None:
            if name not in self.listed:
                raise BundleError(
                    f"{path} is not listed in the bundle's manifest.json, so nobody vouches for it; "
                    f"remove the file, or {_REMEDY}"
                )
            if outside_folder(self.folder, path):
                raise BundleError(f"{path} is a link out of the bundle; put the file itself there")
        return path

    def text(self, name: str, *, most_bytes: int = JSON_BYTES) -> str | None:
        """Return the content of a UTF-8 file; None where the folder has none of that name.

        Raises:
            BundleError: See `find`; or it is too large, or is not UTF-8 text.
        """
        path = self.find(name)
        if path is None:
            return None
        content = read_bounded(path, most_bytes, error=BundleError, remedy=_REMEDY)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(
                f"{path} is not UTF-8 text (byte {error.start + 1}); {_REMEDY}"
            ) from error

    def object(self, name: str, *, most_bytes: int = JSON_BYTES) -> dict[str, Any] | None:
        """Return the JSON object of a file; None where the folder has none of that name.

        Raises:
            BundleError: See `find`; or the file does not hold a JSON object.
        """
        path = self.find(name)
        if path is None:
            return None
        return read_object(path, error=BundleError, remedy=_REMEDY, most_bytes=most_bytes)


def path_problem(path: str) -> str | None:
    """Return why a path of the manifest cannot be that of a file inside the bundle; None if it can."""
    parts = path.split("/")
    if not path or path.startswith("/") or (len(path) > 1 and path[1] == ":"):
        return "is not relative to the bundle"
    if any(part in ("", ".", "..") for part in parts):
        return "leaves the bundle or is not in its plain form"
    if "\\" in path or not path.isprintable():
        return "holds a backslash or a character that cannot be printed"
    return None


def outside_folder(folder: Path, path: Path) -> bool:
    """Return whether a file really lies outside the folder that it is named in, as where a link leads out of it.

    A snapshot in the cache of `huggingface_hub` is a folder of links into the `blobs` of the same repository; those are inside.

    Args:
        folder: A bundle.
        path: A file in it.
    """
    place = folder
    for part in path.relative_to(folder).parts:
        place = place / part
        if place.is_symlink():
            break
    else:
        return False
    real, home = path.resolve(), folder.resolve()
    if real.is_relative_to(home):
        return False
    is_snapshot = home.parent.name == "snapshots"
    return not (is_snapshot and real.is_relative_to(home.parent.parent / "blobs"))
