"""Which engines are kept, which are refitted, which are compiled; and builds that cannot be."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moir_edge.bundle import check_engine, component_sha256, open_bundle, seal
from moir_edge.cli.main import main
from moir_edge.engines import EngineOptions, add_engines, build_engines
from moir_edge.engines.jobs import BuildJob, BuildOutcome
from moir_edge.errors import BundleError, EnvironmentProblem, UnsupportedError
from moir_edge.tensorrt_api import device_compute_capability

from ...tensorrt_surface.double import load_surface, make_double
from .test_engine_building import MakeBundle, bundle_maker

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (extra `rtx`)")


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    return bundle_maker(tmp_path)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[BuildJob]:
    """The jobs that are run; each writes a file with a number of its own."""
    jobs: list[BuildJob] = []

    def run(job: BuildJob, **_: object) -> BuildOutcome:
        jobs.append(job)
        Path(job.output).write_bytes(f"engine {len(jobs)}".encode())
        return BuildOutcome(builder_version=trt.__version__, seconds=1.0, peak_memory_bytes=1)

    monkeypatch.setattr("moir_edge.engines.work.run_build", run)
    return jobs


def _built(jobs: list[BuildJob]) -> list[str]:
    names = [Path(job.output).stem for job in jobs]
    jobs.clear()
    return names


def _hashes(folder: Path, target: str = "rtx-40") -> dict[str, str]:
    manifest = open_bundle(folder).manifest
    hashes = {entry.path: entry.sha256 for entry in manifest.files}
    return {e.component: hashes[e.path] for e in manifest.engines if e.target == target}


def _retune(folder: Path, copy: Path, weights: str) -> Path:
    """Copy a bundle; its decoder has other weights of the same structure."""
    shutil.copytree(folder, copy)
    manifest = open_bundle(copy).manifest
    components = dict(manifest.components)
    for name, component in components.items():
        own = weights if name == "decoder" else "same"
        update = {"structure_sha256": f"graph of {name}", "weights_sha256": own}
        components[name] = component.model_copy(update=update)
    engines = copy / "engines"
    shutil.rmtree(engines, ignore_errors=True)
    seal(copy, manifest.model_copy(update={"components": components, "engines": ()}))
    return copy


def test_an_engine_whose_graph_is_unchanged_is_kept(
    make_bundle: MakeBundle, builds: list[BuildJob]
) -> None:
    folder, _ = make_bundle()
    add_engines(folder, "rtx-40")
    before = _hashes(folder)
    assert _built(builds) == ["embedding", "decoder"]
    calls: list[tuple[str, int, int]] = []
    add_engines(folder, "rtx-40", progress=lambda *call: calls.append(call))
    assert _built(builds) == []
    assert _hashes(folder) == before
    assert calls == [("compile embedding", 100, 100), ("compile decoder", 100, 100)]
    add_engines(folder, "rtx-40", options=EngineOptions(refittable=True))
    assert _built(builds) == ["embedding", "decoder"]


def test_a_refit_compiles_only_what_changed(
    make_bundle: MakeBundle, builds: list[BuildJob], tmp_path: Path
) -> None:
    folder, _ = make_bundle()
    old = _retune(folder, tmp_path / "old", "first")
    new = _retune(folder, tmp_path / "new", "second")
    add_engines(old, "rtx-40")
    _built(builds)
    add_engines(new, "rtx-40", refit=old)
    assert _built(builds) == ["decoder"]
    before, after = _hashes(old), _hashes(new)
    assert after["embedding"] == before["embedding"]
    assert after["decoder"] != before["decoder"]
    manifest = open_bundle(new).manifest
    for entry in manifest.engines:
        check_engine(
            entry,
            manifest,
            builder="tensorrt_rtx",
            version=trt.__version__,
            compute_capability="8.9",
        )


def test_stripped_refittable_engines_serve_any_weights(
    make_bundle: MakeBundle, builds: list[BuildJob], tmp_path: Path
) -> None:
    folder, _ = make_bundle()
    old = _retune(folder, tmp_path / "old", "first")
    new = _retune(folder, tmp_path / "new", "second")
    add_engines(old, "rtx-40", options=EngineOptions(strip_weights=True, refittable=True))
    assert {(job.strip_weights, job.refittable) for job in builds} == {(True, True)}
    _built(builds)
    add_engines(new, "rtx-40", refit=old)
    assert _built(builds) == []
    assert _hashes(new) == _hashes(old)
    decoder = open_bundle(new).manifest.engines[1]
    assert decoder.stripped
    assert decoder.graph_sha256 == component_sha256(open_bundle(new).manifest, "decoder")


@pytest.mark.parametrize(("gpu", "refitted"), [("8.9", True), ("8.6", False), (None, False)])
def test_weights_are_exchanged_on_the_gpu_and_nowhere_else(
    make_bundle: MakeBundle,
    builds: list[BuildJob],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: str | None,
    refitted: bool,
) -> None:
    monkeypatch.setattr("moir_edge.engines.work.device_compute_capability", lambda: gpu)
    folder, _ = make_bundle()
    old = _retune(folder, tmp_path / "old", "first")
    new = _retune(folder, tmp_path / "new", "second")
    add_engines(old, "rtx-40", options=EngineOptions(refittable=True))
    builds.clear()
    add_engines(new, "rtx-40", refit=old)
    (job,) = builds
    assert Path(job.output).stem == "decoder"
    assert job.refit_from == (
        str(old / "engines" / "rtx-40" / "decoder.engine") if refitted else None
    )


def test_a_refit_needs_engines_to_take_over(
    make_bundle: MakeBundle, builds: list[BuildJob], tmp_path: Path
) -> None:
    folder, _ = make_bundle()
    old = _retune(folder, tmp_path / "old", "first")
    with pytest.raises(BundleError, match="old has no engines for rtx-40 to reuse"):
        add_engines(folder, "rtx-40", refit=old)
    add_engines(old, "rtx-40")
    with pytest.raises(UnsupportedError, match="were built with other settings"):
        add_engines(folder, "rtx-40", refit=old, options=EngineOptions(refittable=True))


@pytest.mark.parametrize("precision", ["int4", "fp16"])
def test_weights_of_a_cpu_bundle_cannot_be_stripped(
    make_bundle: MakeBundle, precision: str
) -> None:
    folder, manifest = make_bundle(precision)
    manifest = manifest.model_copy(update={"target": "cpu"})
    with pytest.raises(UnsupportedError, match=r"exported for cpu: .*target='rtx-40'"):
        build_engines(folder, manifest, "rtx-40", options=EngineOptions(strip_weights=True))


def test_stripping_without_a_driver_is_refused_in_words(make_bundle: MakeBundle) -> None:
    if device_compute_capability() is not None:
        pytest.skip("there is a GPU")
    folder, manifest = make_bundle()
    with pytest.raises(EnvironmentProblem, match="only where an NVIDIA driver is"):
        build_engines(folder, manifest, "rtx-40", options=EngineOptions(strip_weights=True))
    assert not (folder / "engines").exists()


def test_the_device_builds_for_its_own_target(
    make_bundle: MakeBundle, builds: list[BuildJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    double = make_double(load_surface("10.3.0"))
    double.__spec__ = importlib.util.spec_from_loader("tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    monkeypatch.setattr("moir_edge.engines.building.device_compute_capability", lambda: "8.7")
    folder, _ = make_bundle("int4")
    with pytest.raises(UnsupportedError, match="cpu has no engines"):
        add_engines(folder)
    add_engines(folder, "jetson-agx-orin")
    assert [(job.builder, job.sm, job.workspace) for job in builds] == [
        ("tensorrt", 87, 16 << 30)
    ] * 2
    assert all(str(job.timing_cache).endswith("timing.cache") for job in builds)
    entries = open_bundle(folder).manifest.engines
    assert {(entry.builder, entry.compute_capability) for entry in entries} == {("tensorrt", "8.7")}
    with pytest.raises(UnsupportedError, match=r"jetson-thor \(SM 11\.0\).* a GPU of SM 8\.7"):
        add_engines(folder, "jetson-thor")


@pytest.mark.parametrize("listed", [True, False])
def test_only_a_timing_cache_that_the_manifest_lists_is_read(
    listed: bool, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = make_double(load_surface("10.3.0"))
    double.__spec__ = importlib.util.spec_from_loader("tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    monkeypatch.setattr("moir_edge.engines.building.device_compute_capability", lambda: "8.7")
    found: list[bool] = []

    def run(job: BuildJob, **_: object) -> BuildOutcome:
        cache = Path(str(job.timing_cache))
        found.append(cache.exists())
        if listed:
            cache.write_bytes(b"measured")
        Path(job.output).write_bytes(b"engine")
        return BuildOutcome(builder_version="10.3.0", seconds=1.0, peak_memory_bytes=1)

    monkeypatch.setattr("moir_edge.engines.work.run_build", run)
    folder, _ = make_bundle("fp16")
    add_engines(folder, "jetson-agx-orin")
    if not listed:
        (folder / "engines" / "jetson-agx-orin" / "timing.cache").write_bytes(b"from elsewhere")
    add_engines(folder, "jetson-agx-orin", options=EngineOptions(refittable=True))
    assert found == [False, listed, listed, listed]


def test_a_killed_build_is_one_line(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = make_bundle()
    suicide = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr("moir_edge.engines.process.child_command", lambda _: suicide)
    with pytest.raises(
        EnvironmentProblem,
        match=r"the build of embedding\.onnx for rtx-40 was killed by signal 9; if memory",
    ):
        build_engines(folder, manifest, "rtx-40")


def test_too_little_memory_is_refused_before_anything_is_built(
    make_bundle: MakeBundle, builds: list[BuildJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moir_edge.engines.work.available_memory_bytes", lambda: 10**8)
    folder, manifest = make_bundle()
    with pytest.raises(EnvironmentProblem, match=r"0\.1 GB is free"):
        build_engines(folder, manifest, "rtx-40")
    assert not builds


def test_the_command_builds_for_the_bundles_own_target(
    make_bundle: MakeBundle, builds: list[BuildJob], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, manifest = make_bundle()
    assert main(["build", str(folder)]) == 2
    assert "cpu has no engines" in capsys.readouterr().err
    seal(folder, manifest.model_copy(update={"target": "rtx-40"}))
    assert main(["build", str(folder)]) == 0
    assert "engines kept: none; new: embedding, decoder" in capsys.readouterr().out
    assert main(["build", str(folder)]) == 0
    assert "engines kept: embedding, decoder; new: none" in capsys.readouterr().out
    seal(folder, manifest.model_copy(update={"target": "jetson-thor"}))
    assert main(["build", str(folder)]) == 2
    assert capsys.readouterr().err == (
        "error: engines for jetson-thor are built by TensorRT on the device itself; copy the bundle there and run "
        "`moir-edge build BUNDLE`\n"
    )


def test_a_device_needs_none_of_the_exporters_packages() -> None:
    heavy = "{'torch', 'transformers', 'onnx', 'onnx_ir', 'onnxscript', 'tensorrt_rtx'}"
    code = (
        "import sys, moir_edge.engines, moir_edge.engines.worker, moir_edge.engines.layers\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
