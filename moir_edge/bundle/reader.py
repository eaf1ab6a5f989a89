"""Open a bundle: read its manifest, refuse a newer schema, and prove every file by its hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from moir_edge.bundle.manifest import MANIFEST_NAME, SCHEMA_VERSION, Manifest
from moir_edge.errors import BundleError

__all__ = ["Bundle", "file_sha256", "open_bundle"]

# Larger ones come from the system anew each time, which small files pay for.
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk that has been opened.

    Attributes:
        path: The bundle folder.
        manifest: What the folder holds.
    """

    path: Path
    manifest: Manifest

    def file(self, relative: str) -> Path:
        """Return the absolute path of a file of the bundle.

        Args:
            relative: Its path inside the bundle, with forward slashes.

        Raises:
            BundleError: The manifest lists the file and it is gone.
        """
        path = self.path / relative
        if not path.is_file():
            raise BundleError(f"{self.path}: {relative} is missing; export the bundle again")
        return path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def open_bundle(path: str | Path, *, verify: bool = True) -> Bundle:
    """Open a bundle folder.

    Args:
        path: The folder that holds `manifest.json`.
        verify: Compare the size and SHA-256 of every listed file (about 1 GB/s).

    Raises:
        BundleError: No bundle there, a newer schema, an invalid manifest, or a file that is missing or changed.
    """
    folder = Path(path)
    manifest_path = folder / MANIFEST_NAME
    if not manifest_path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it lacks {MANIFEST_NAME}; make one with `moir-edge export`"
        )
    bundle = Bundle(folder, _parse(manifest_path))
    if verify:
        _verify_files(bundle)
    return bundle


def _parse(path: Path) -> Manifest:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BundleError(
            f"{path} cannot be read as JSON ({error}); export the bundle again"
        ) from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(version, int):
        raise BundleError(f"{path} has no schema_version; it is not a moir-edge manifest")
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version}, this moir-edge reads up to {SCHEMA_VERSION}; "
            "upgrade with `pip install -U moir-edge`"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path} is invalid at {where}: {first['msg']}") from error


def _verify_files(bundle: Bundle) -> None:
    for entry in bundle.manifest.files:
        path = bundle.file(entry.path)
        size = path.stat().st_size
        if size != entry.bytes:
            raise BundleError(
                f"{path} has {size} bytes, the manifest says {entry.bytes}; "
                "the bundle is damaged, copy or export it again"
            )
        digest = file_sha256(path)
        if digest != entry.sha256:
            raise BundleError(
                f"{path} has sha256 {digest}, the manifest says {entry.sha256}; "
                "the bundle is damaged, copy or export it again"
            )
