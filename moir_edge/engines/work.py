"""The engines of one bundle for one target: which are kept, which are refitted, which are compiled, and what that takes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moir_edge.bundle import EngineEntry, Manifest, component_sha256
from moir_edge.bundle.profiles import component_profiles
from moir_edge.engines.jobs import BuildJob, shape_tables, tables_sha256, workspace_bytes
from moir_edge.engines.memory import (
    available_memory_bytes,
    check_build_memory,
    estimate_build_memory,
)
from moir_edge.engines.monitoring import PROGRESS_STEPS
from moir_edge.engines.process import run_build
from moir_edge.engines.reuse import EngineStock, Reuse
from moir_edge.environment import require
from moir_edge.errors import UnsupportedError
from moir_edge.precisions import PRECISIONS, lacks_gpu_form
from moir_edge.progress import Progress
from moir_edge.targets import Target, get_target
from moir_edge.tensorrt_api import (
    BuilderName,
    device_compute_capability,
    load_tensorrt,
    version_text,
)

__all__ = ["TIMING_CACHE", "EngineOptions", "EngineWork"]

_HALF_FOLDER = "half"
TIMING_CACHE = "timing.cache"
"""The file beside the engines in which TensorRT keeps what it measured."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of the engines to build.

    Attributes:
        strip_weights: Leave the weights out; they are taken from the bundle's graphs when an engine is loaded.
        refittable: Let engines take other weights than those they were compiled with.
    """

    strip_weights: bool = False
    refittable: bool = False


@dataclass(frozen=True)
class EngineWork:
    """The engines of one bundle for one target.

    Attributes:
        folder: The bundle's folder.
        manifest: Names graphs, inputs and precisions.
        target: Whose engines.
        options: Of which kind.
        output: An empty folder for the engines.
        stock: Engines that may serve again.
    """

    folder: Path
    manifest: Manifest
    target: Target
    options: EngineOptions
    output: Path
    stock: EngineStock | None

    @property
    def builder(self) -> BuilderName:
        """The module that compiles for the target."""
        return "tensorrt" if self.target.builder == "tensorrt" else "tensorrt_rtx"

    def run(self, progress: Progress) -> list[EngineEntry]:
        """Put every engine into `output`.

        Args:
            progress: Called as ``progress(stage, step, PROGRESS_STEPS)``, one stage per component.

        Raises:
            MoirEdgeError: As in `moir_edge.engines.build_engines`.
        """
        version = version_text(load_tensorrt(self.builder))
        jobs = {name: self._job(name) for name in self.manifest.components}
        found = {name: self._find(name, job, version) for name, job in jobs.items()}
        self._check_memory([name for name, reuse in found.items() if reuse is None])
        self._take_timing_cache()
        entries = []
        for name, job in jobs.items():
            entries.append(self._serve(name, job, found[name], progress))
            if found[name] is not None:
                progress(_stage(name), PROGRESS_STEPS, PROGRESS_STEPS)
        shutil.rmtree(self.output / _HALF_FOLDER, ignore_errors=True)
        return entries

    def _job(self, name: str) -> BuildJob:
        component = self.manifest.components[name]
        on_device = self.builder == "tensorrt"
        return BuildJob(
            builder=self.builder,
            graph=str(self.folder / component.graph),
            output=str(self.output / f"{name}.engine"),
            target=self.target.name,
            sm=self.target.sm or 0,
            workspace=workspace_bytes(self.target),
            profiles=shape_tables(component, component_profiles(name, self.manifest.model)),
            strip_weights=self.options.strip_weights,
            refittable=self.options.refittable,
            timing_cache=str(self.output / TIMING_CACHE) if on_device else None,
        )

    def _find(self, name: str, job: BuildJob, version: str) -> Reuse | None:
        """Return the engine that saves a build; one to be refitted only where its GPU is."""
        if self.stock is None:
            return None
        reuse = self.stock.find(
            self.manifest, name, job, version=version, profiles_sha256=tables_sha256(job.profiles)
        )
        if reuse is None or not reuse.path.is_file():
            return None
        if reuse.needs_refit and device_compute_capability() != self.target.compute_capability:
            return None
        return reuse

    def _check_memory(self, names: Sequence[str]) -> None:
        needed = {
            name: estimate_build_memory(self.folder, self.manifest, name, self.target)
            for name in names
        }
        check_build_memory(needed, self.target, available_memory_bytes())

    def _take_timing_cache(self) -> None:
        if self.stock is None or self.builder != "tensorrt":
            return
        earlier = f"engines/{self.target.name}/{TIMING_CACHE}"
        # Opening the stock's bundle proved the listed files by their hashes; TensorRT parses no other.
        if any(entry.path == earlier for entry in self.stock.manifest.files):
            shutil.copy2(self.stock.folder / earlier, self.output / TIMING_CACHE)

    def _serve(
        self, name: str, job: BuildJob, reuse: Reuse | None, progress: Progress
    ) -> EngineEntry:
        """Copy, refit or compile one engine."""
        if reuse is None:
            return self._build(name, job, progress)
        if not reuse.needs_refit:
            return reuse.copy(Path(job.output))
        outcome = run_build(replace(job, refit_from=str(reuse.path)))
        size = Path(job.output).stat().st_size
        return reuse.entry.model_copy(update={"bytes": size, "build_seconds": outcome.seconds})

    def _build(self, name: str, job: BuildJob, progress: Progress) -> EngineEntry:
        component = self.manifest.components[name]
        for_cpu = get_target(self.manifest.target).sm is None
        if lacks_gpu_form(component.precision, component.gpu_form, for_cpu=for_cpu):
            job = replace(job, graph=str(self._gpu_copy(name)))
        outcome = run_build(
            job,
            progress=lambda step: progress(_stage(name), step, PROGRESS_STEPS),
        )
        path = Path(job.output)
        return EngineEntry(
            component=name,
            target=self.target.name,
            path=f"engines/{self.target.name}/{path.name}",
            builder=self.builder,
            builder_version=outcome.builder_version,
            compute_capability=self.target.compute_capability or "",
            compute=PRECISIONS[component.precision].product,
            graph_sha256=component_sha256(self.manifest, name),
            profiles_sha256=tables_sha256(job.profiles),
            stripped=job.strip_weights,
            refittable=job.refittable,
            bytes=path.stat().st_size,
            build_seconds=outcome.seconds,
            peak_memory_bytes=outcome.peak_memory_bytes,
        )

    def _gpu_copy(self, name: str) -> Path:
        """Write the form of a graph that a GPU takes, which a bundle for the CPU does not hold."""
        advice = f"export with `settings.target={self.target.name!r}`"
        if self.options.strip_weights or self.options.refittable:
            raise UnsupportedError(
                f"{name}.onnx was exported for {self.manifest.target}: its weights differ from the engine's, so the engine "
                f"cannot be stripped or refitted; {advice}"
            )
        require("onnx_ir")
        graph = self.folder / self.manifest.components[name].graph
        from moir_edge.calibration.gpu_form import write_gpu_form

        return write_gpu_form(graph, self.output / _HALF_FOLDER)


def _stage(component: str) -> str:
    return f"compile {component}"
