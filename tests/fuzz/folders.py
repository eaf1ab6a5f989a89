"""Copies of a folder that cost nothing until a file is altered, and manifests that prove altered files again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

__all__ = ["link_copy", "prove_again", "rewrite", "seal_again"]


def link_copy(source: Path, target: Path) -> Path:
    """Copy a folder; files are links to the same bytes, so that `rewrite` must be used to alter one."""
    for place, _, files in os.walk(source):
        folder = target / Path(place).relative_to(source)
        folder.mkdir(parents=True, exist_ok=True)
        for name in files:
            os.link(Path(place) / name, folder / name)
    return target


def rewrite(path: Path, content: bytes | str) -> None:
    """Give a file other content; a text may hold halves of characters, which are written as such."""
    path.unlink(missing_ok=True)
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    path.write_bytes(raw)


def prove_again(folder: Path) -> None:
    """Write sizes and hashes of the files as they are now into a bundle's manifest, as someone who controls all of it would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["files"]:
        file = folder / entry["path"]
        if file.is_file():
            content = file.read_bytes()
            entry["bytes"] = len(content)
            entry["sha256"] = hashlib.sha256(content).hexdigest()
    rewrite(path, json.dumps(manifest))
    seal_again(path)


def seal_again(path: Path) -> None:
    """Write a manifest's hash of itself anew, if the manifest is such that it can have one."""
    from moir_edge.bundle.manifest import manifest_sha256

    try:
        text = path.read_text()
        seal = json.loads(text)["manifest_sha256"]
        rewrite(path, text.replace(seal, manifest_sha256(json.loads(text))))
    except (ValueError, KeyError, TypeError, RecursionError):
        return
