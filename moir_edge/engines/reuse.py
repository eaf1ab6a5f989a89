"""Find engines that can be kept: same graph, builder, GPU and shapes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from moir_edge.bundle import EngineEntry, Manifest, component_sha256, open_bundle
from moir_edge.engines.jobs import BuildJob
from moir_edge.errors import BundleError

__all__ = ["EngineStock", "Reuse"]


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """Use that can be made of an existing engine.

    Attributes:
        entry: The engine's entry, with the graph that it belongs to from now on.
        path: The file.
        needs_refit: Its weights have to be exchanged; if not, the file serves as it is.
    """

    entry: EngineEntry
    path: Path
    needs_refit: bool

    def copy(self, destination: Path) -> EngineEntry:
        """Copy the file, byte by byte, and return the entry."""
        shutil.copy2(self.path, destination)
        return self.entry


@dataclass(frozen=True)
class EngineStock:
    """The engines of a bundle.

    Attributes:
        folder: The bundle's folder.
        manifest: Its manifest, which says what the engines were compiled from.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def of(cls, folder: Path) -> EngineStock | None:
        """Return the engines of a folder; None where no intact bundle lies."""
        try:
            opened = open_bundle(folder)
        except BundleError:
            return None
        return cls(opened.path, opened.manifest)

    def find(
        self, manifest: Manifest, name: str, job: BuildJob, *, version: str, profiles_sha256: str
    ) -> Reuse | None:
        """Return the engine that serves a component's job; None if it has to be compiled.

        Args:
            manifest: The bundle that is to get the engine.
            name: The component.
            job: What would be compiled.
            version: The builder's.
            profiles_sha256: Of the job's shapes.
        """
        for entry in self.manifest.engines:
            wanted = (name, job.target, job.builder, version, profiles_sha256)
            if wanted != _identity(entry) or not _same_kind(entry, job):
                continue
            if entry.graph_sha256 != component_sha256(self.manifest, name):
                continue  # stale where it lies
            return self._fit(entry, manifest, name)
        return None

    def _fit(self, entry: EngineEntry, manifest: Manifest, name: str) -> Reuse | None:
        theirs, ours = self.manifest.components[name], manifest.components[name]
        graph = component_sha256(manifest, name)
        same = entry.graph_sha256 == graph
        structure = ours.structure_sha256
        if not same and not (
            entry.refittable and structure is not None and structure == theirs.structure_sha256
        ):
            return None
        return Reuse(
            entry=entry.model_copy(update={"graph_sha256": graph}),
            path=self.folder / entry.path,
            # A stripped engine gets its weights, whichever, when it is loaded.
            needs_refit=not same and not entry.stripped,
        )


def _identity(entry: EngineEntry) -> tuple[str, str, str, str, str]:
    return (
        entry.component,
        entry.target,
        entry.builder,
        entry.builder_version,
        entry.profiles_sha256,
    )


def _same_kind(entry: EngineEntry, job: BuildJob) -> bool:
    return (entry.stripped, entry.refittable) == (job.strip_weights, job.refittable)
