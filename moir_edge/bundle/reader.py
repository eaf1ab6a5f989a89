"""Open a bundle: read its manifest, refuse a newer schema, and prove every file by its hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moir_edge.arguments import given_path, switch
from moir_edge.bundle.consistency import check_consistent
from moir_edge.bundle.files import ModelFiles
from moir_edge.bundle.graph_files import weight_locations
from moir_edge.bundle.manifest import MANIFEST_NAME, SCHEMA_VERSION, Manifest, manifest_sha256
from moir_edge.errors import BundleError, one_line
from moir_edge.json_files import holds_more, read_bounded, read_object
from moir_edge.limits import GRAPH_BYTES, SETTINGS_VALUES

__all__ = ["Bundle", "file_sha256", "open_bundle"]

# Larger ones come from the system anew each time, which small files pay for.
_CHUNK_BYTES = 1 << 16
_AGAIN = "export the bundle again"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk that has been opened.

    Attributes:
        path: The bundle folder.
        manifest: What the folder holds.
    """

    path: Path
    manifest: Manifest

    @cached_property
    def files(self) -> ModelFiles:
        """The files from which prompts are made."""
        return ModelFiles(self.path, frozenset(entry.path for entry in self.manifest.files))

    def file(self, relative: str) -> Path:
        """Return the path of a file of the bundle.

        Args:
            relative: Its path inside the bundle, with forward slashes.

        Raises:
            BundleError: The manifest does not list the file, it is missing, or it is a link out of the bundle.
        """
        path = self.files.find(relative)
        if path is None:
            raise BundleError(f"{self.path}: {relative} is missing; export the bundle again")
        return path

    def graph(self, component: str, *, fused: bool = False) -> Path:
        """Return the path of a component's ONNX graph, once its weights are known to lie in the bundle's own files.

        Args:
            component: ``vision``, ``embedding``, ``router`` or ``decoder``.
            fused: Take its fused form.

        Raises:
            BundleError: The bundle has no such component, a file of it is missing, or the graph names other files than the manifest.
        """
        entry = self.manifest.components.get(component)
        if entry is None:
            raise BundleError(f"{self.path} has no {component} component; export it again")
        if fused and entry.fused is None:
            raise BundleError(f"{self.path} has no fused form of {component}; {_AGAIN}")
        form = entry.fused if fused and entry.fused else entry
        path = self.file(form.graph)
        content = read_bounded(path, GRAPH_BYTES, error=BundleError, remedy=_AGAIN)
        try:
            named = weight_locations(content)
        except ValueError as error:
            raise BundleError(
                f"{path} is not an ONNX graph ({one_line(error)}); {_AGAIN}"
            ) from error
        others = sorted(named - set(entry.data))
        if others:
            raise BundleError(
                f"{path} reads weights from {others[0]!r}, which is not a file of the {component} in the manifest; {_AGAIN}"
            )
        for name in entry.data:
            self.file(name)
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
        verify: Compare the size and SHA-256 of every listed file (about 1 GB/s), and the SHA-256 of the manifest itself.

    Raises:
        BundleError: No bundle there, a newer schema, an invalid manifest, or a file that is missing or changed.
    """
    folder = given_path("bundle", path)
    switch("verify", verify)
    manifest_path = folder / MANIFEST_NAME
    if not manifest_path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it lacks {MANIFEST_NAME}; make one with `moir-edge export`"
        )
    bundle = Bundle(folder, _parse(manifest_path, verify=verify))
    if verify:
        _verify_files(bundle)
    return bundle


def _parse(path: Path, *, verify: bool) -> Manifest:
    raw = read_object(path, error=BundleError, remedy=_AGAIN)
    version = raw.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise BundleError(f"{path} has no schema_version; it is not a moir-edge manifest")
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version}, this moir-edge reads up to {SCHEMA_VERSION}; "
            "upgrade with `pip install -U moir-edge`"
        )
    manifest = _validated(raw, path)
    check_consistent(manifest, path)
    digest = manifest.manifest_sha256
    if verify and digest is not None and digest != manifest_sha256(raw):
        raise BundleError(
            f"{path} was altered after it was written: its manifest_sha256 is {digest!r}; "
            "the bundle is damaged, copy or export it again"
        )
    return manifest


def _validated(raw: dict[str, Any], path: Path) -> Manifest:
    if holds_more(raw, SETTINGS_VALUES):
        raise BundleError(f"{path} holds more than {SETTINGS_VALUES:,} values; {_AGAIN}")
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"{path} is invalid at {where or 'its top'}: {one_line(first['msg'])}; {_AGAIN}"
        ) from error


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
