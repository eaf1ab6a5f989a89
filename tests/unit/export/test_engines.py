from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from moir_edge.bundle import (
    ComponentEntry,
    Manifest,
    ModelFacts,
    SourceEntry,
    TensorSpec,
    check_engine,
    component_sha256,
    open_bundle,
    seal,
    staged_bundle,
)
from moir_edge.bundle.manifest import Precision
from moir_edge.calibration import observe, quantize
from moir_edge.cli.main import main
from moir_edge.errors import BundleError, EnvironmentProblem, UnsupportedError
from moir_edge.export.build_process import run_build
from moir_edge.export.engines import EngineOptions, add_engines, build_engines
from moir_edge.export.half import to_half
from moir_edge.export.jobs import BuildJob, BuildOutcome
from moir_edge.tensorrt_api import device_compute_capability

from ...tensorrt_surface.double import load_surface, make_double

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (extra `rtx`)")

HIDDEN, VOCABULARY = 64, 96
_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}

IDS = TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"))
EMBEDS = TensorSpec(name="inputs_embeds", dtype="float32", shape=("batch", "sequence", HIDDEN))
PAST = TensorSpec(name="past", dtype="float32", shape=("batch", "past_sequence", HIDDEN))
PRESENT = TensorSpec(name="present", dtype="float32", shape=("batch", "total_sequence", HIDDEN))
LOGITS = TensorSpec(name="logits", dtype="float32", shape=("batch", 1, VOCABULARY))


def _random(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    weights: dict[str, np.ndarray],
) -> onnx.ModelProto:
    def values(specs: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(s.name, _TYPES[s.dtype], s.shape) for s in specs]

    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "test", values(inputs), values(outputs), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def _embedding() -> onnx.ModelProto:
    node = helper.make_node("Gather", ["embed", "input_ids"], ["inputs_embeds"], name="embed")
    return _model([node], (IDS,), (EMBEDS,), {"embed": _random(VOCABULARY, HIDDEN, seed=0)})


def _decoder(operator: str = "Softmax") -> onnx.ModelProto:
    """One attention step over a cache, and the tied head on the last position."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["inputs_embeds", "wq"], ["q"], name="q"),
        node("MatMul", ["inputs_embeds", "wk"], ["k"], name="k"),
        node("Concat", ["past", "k"], ["present"], name="concat", axis=1),
        node("Transpose", ["present"], ["kt"], name="transpose", perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"], name="scores"),
        node(operator, ["scores"], ["weights"], name="attend"),
        node("MatMul", ["weights", "present"], ["mixed"], name="mix"),
        node("Gather", ["mixed", "last"], ["final"], name="last", axis=1),
        node("Gemm", ["final", "embed"], ["flat"], name="head", transB=1),
        node("Unsqueeze", ["flat", "axis"], ["logits"], name="unsqueeze"),
    ]
    weights = {
        "wq": _random(HIDDEN, HIDDEN, seed=1),
        "wk": _random(HIDDEN, HIDDEN, seed=2),
        "embed": _random(VOCABULARY, HIDDEN, seed=0),
        "last": np.array(-1, np.int64),
        "axis": np.array([1], np.int64),
    }
    return _model(nodes, (EMBEDS, PAST), (LOGITS, PRESENT), weights)


def _feeds(model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    shapes = {"input_ids": (1, 4), "inputs_embeds": (1, 4, HIDDEN), "past": (1, 3, HIDDEN)}
    return [
        {
            value.name: np.ones(shapes[value.name], np.int64)
            if value.name == "input_ids"
            else _random(*shapes[value.name], seed=8)
            for value in model.graph.input
        }
    ]


def _converted(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    if precision == "int8":
        # unsigned, as a bundle for the CPU has them
        observers = observe(model, _feeds(model))
        return quantize(model, "int8", observers=observers, signed=False)[0]
    if precision in ("int8-weight-only", "int4"):
        return quantize(model, precision)[0]  # type: ignore[arg-type]
    converted = ir.from_proto(model)
    if precision == "fp16":
        to_half(converted)
    return ir.to_proto(converted)


def _manifest(precision: Precision) -> Manifest:
    facts = ModelFacts(
        model_type="smolvlm",
        hidden_size=HIDDEN,
        num_layers=1,
        num_kv_heads=1,
        head_dim=HIDDEN,
        vocab_size=VOCABULARY,
        context_length=128,
        image_token_id=3,
        eos_token_ids=(2,),
        pad_token_id=0,
        special_token_ids=(0, 1, 2, 3),
        image_size=32,
        tokens_per_tile=4,
    )
    interfaces = {"embedding": ((IDS,), (EMBEDS,)), "decoder": ((EMBEDS, PAST), (LOGITS, PRESENT))}
    components = {
        name: ComponentEntry(
            graph=f"{name}.onnx",
            data=(f"{name}.data",),
            precision=precision,
            tensor_bytes=1,
            inputs=inputs,
            outputs=outputs,
        )
        for name, (inputs, outputs) in interfaces.items()
    }
    return Manifest(
        created_with={"moir-edge": "0"},
        source=SourceEntry(name="test", sha256="0", architecture="Test"),
        model=facts,
        target="cpu",
        precision=precision,
        router=None,
        router_sha256=None,
        components=components,
    )


MakeBundle = Callable[..., tuple[Path, Manifest]]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    def make(
        precision: Precision = "fp32", decoder: onnx.ModelProto | None = None
    ) -> tuple[Path, Manifest]:
        folder = tmp_path / "bundle"
        models = {"embedding": _embedding(), "decoder": decoder or _decoder()}
        with staged_bundle(folder) as staging:
            for name, model in models.items():
                # External data, as the exporter writes it, has to be found beside the graph.
                onnx.save(
                    _converted(model, precision),
                    staging / f"{name}.onnx",
                    save_as_external_data=True,
                    location=f"{name}.data",
                    size_threshold=256,
                )
            manifest = seal(staging, _manifest(precision))
        return folder, manifest

    return make


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-weight-only", "int8", "int4"])
def test_every_precision_builds(make_bundle: MakeBundle, precision: Precision) -> None:
    folder, manifest = make_bundle(precision)
    entries = build_engines(folder, manifest, "rtx-40")
    assert [entry.component for entry in entries] == ["embedding", "decoder"]
    for entry in entries:
        assert entry.path == f"engines/rtx-40/{entry.component}.engine"
        assert (folder / entry.path).stat().st_size > 10_000
        assert entry.compute_capability == "8.9"
        assert entry.builder_version == trt.__version__
        assert entry.build_seconds > 0


def test_int4_is_refused_on_a_target_that_lacks_it(make_bundle: MakeBundle) -> None:
    folder, manifest = make_bundle("int4")
    with pytest.raises(UnsupportedError, match="INT4 needs SM 80 or later; rtx-20 is SM 75"):
        build_engines(folder, manifest, "rtx-20")
    assert not (folder / "engines").exists()


@pytest.mark.parametrize(
    ("target", "reason"),
    [("jetson-thor", "built by TensorRT on the device itself"), ("cpu", "cpu has no engines")],
)
def test_targets_without_ahead_of_time_builds(
    make_bundle: MakeBundle, target: str, reason: str
) -> None:
    folder, manifest = make_bundle()
    with pytest.raises(UnsupportedError, match=reason):
        build_engines(folder, manifest, target)
    with pytest.raises(UnsupportedError, match=reason):
        add_engines(folder, target)


def test_progress_rises_to_its_total_per_component(make_bundle: MakeBundle) -> None:
    folder, manifest = make_bundle()
    calls: list[tuple[str, int, int]] = []
    build_engines(folder, manifest, "rtx-30", progress=lambda *call: calls.append(call))
    for component in ("embedding", "decoder"):
        steps = [(step, total) for name, step, total in calls if name == component]
        assert steps == sorted(set(steps))
        assert steps[-1] == (100, 100)
        assert len(steps) > 3


def test_an_error_in_the_callback_stops_the_build(make_bundle: MakeBundle) -> None:
    folder, manifest = make_bundle()
    before = _files(folder)

    def interrupt(component: str, step: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engines(folder, manifest, "rtx-40", progress=interrupt)
    assert _files(folder) == before


def test_a_refused_node_is_named_and_nothing_is_left(make_bundle: MakeBundle) -> None:
    folder, manifest = make_bundle(decoder=_decoder(operator="Det"))
    before = _files(folder)
    with pytest.raises(UnsupportedError) as error:
        build_engines(folder, manifest, "rtx-40")
    message = str(error.value)
    assert message.startswith("TensorRT-RTX cannot parse decoder.onnx at node 'attend' (Det)")
    assert "\n" not in message
    assert _files(folder) == before


def test_a_damaged_graph_is_one_line(make_bundle: MakeBundle) -> None:
    folder, manifest = make_bundle()
    (folder / "embedding.onnx").write_bytes(b"no graph")
    with pytest.raises(UnsupportedError, match="embedding") as error:
        build_engines(folder, manifest, "rtx-40")
    assert "\n" not in str(error.value)


def test_missing_weights_are_one_line(make_bundle: MakeBundle) -> None:
    folder, manifest = make_bundle()
    (folder / "embedding.data").unlink()
    with pytest.raises(UnsupportedError, match="embedding") as error:
        build_engines(folder, manifest, "rtx-40")
    assert "\n" not in str(error.value)


def test_add_engines_lists_and_replaces(make_bundle: MakeBundle) -> None:
    folder, _ = make_bundle()
    assert add_engines(folder, "rtx-40") == folder
    add_engines(folder, "rtx-50")
    add_engines(folder, "rtx-40")
    manifest = open_bundle(folder).manifest
    assert [(entry.target, entry.component) for entry in manifest.engines] == [
        ("rtx-50", "embedding"),
        ("rtx-50", "decoder"),
        ("rtx-40", "embedding"),
        ("rtx-40", "decoder"),
    ]
    listed = {entry.path for entry in manifest.files}
    assert {entry.path for entry in manifest.engines} < listed
    assert json.loads((folder / "manifest.json").read_text())["target"] == "cpu"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[BuildJob]:
    """The jobs that are run; each writes a file with a number of its own."""
    jobs: list[BuildJob] = []

    def run(job: BuildJob, **_: object) -> BuildOutcome:
        jobs.append(job)
        Path(job.output).write_bytes(f"engine {len(jobs)}".encode())
        return BuildOutcome(builder_version=trt.__version__, seconds=1.0, peak_memory_bytes=1)

    monkeypatch.setattr("moir_edge.export.engine_work.run_build", run)
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
    assert calls == [("embedding", 100, 100), ("decoder", 100, 100)]
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
    monkeypatch.setattr("moir_edge.export.engine_work.device_compute_capability", lambda: gpu)
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
    with pytest.raises(BundleError, match="old has no engines for rtx-40 to take over"):
        add_engines(folder, "rtx-40", refit=old)
    add_engines(old, "rtx-40")
    with pytest.raises(UnsupportedError, match="are of another kind"):
        add_engines(folder, "rtx-40", refit=old, options=EngineOptions(refittable=True))


def test_weights_of_a_cpu_bundle_cannot_be_stripped(make_bundle: MakeBundle) -> None:
    folder, manifest = make_bundle("int4")
    with pytest.raises(UnsupportedError, match=r"exported for cpu: .* --target rtx-40"):
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
    monkeypatch.setattr("moir_edge.export.engines.device_compute_capability", lambda: "8.7")
    folder, _ = make_bundle("fp16")
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


def test_a_killed_build_is_one_line(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = make_bundle()
    monkeypatch.setattr(
        "moir_edge.export.build_process._ENTRY", "import os, signal; os.kill(os.getpid(), 9)"
    )
    with pytest.raises(
        EnvironmentProblem,
        match=r"the build of embedding\.onnx for rtx-40 was killed by signal 9; if memory",
    ):
        build_engines(folder, manifest, "rtx-40")


def test_too_little_memory_is_refused_before_anything_is_built(
    make_bundle: MakeBundle, builds: list[BuildJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moir_edge.export.engine_work.available_memory_bytes", lambda: 10**8)
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
        "import sys, moir_edge.export.engines, moir_edge.export.build_worker, moir_edge.export.layers\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_build_cost_is_recorded(make_bundle: MakeBundle) -> None:
    folder, manifest = make_bundle("fp16")
    for entry in build_engines(folder, manifest, "rtx-40"):
        assert entry.bytes == (folder / entry.path).stat().st_size
        assert entry.graph_sha256 == component_sha256(manifest, entry.component)
        assert len(entry.profiles_sha256) == 64
        # The loaded builder alone takes a tenth of a gigabyte, these graphs nearly nothing.
        assert 10**8 < (entry.peak_memory_bytes or 0) < 10**9


def test_add_engines_leaves_the_bundle_as_it_was_on_failure(make_bundle: MakeBundle) -> None:
    folder, _ = make_bundle(decoder=_decoder(operator="Det"))
    before = _files(folder)
    with pytest.raises(UnsupportedError):
        add_engines(folder, "rtx-40")
    assert _files(folder) == before
    open_bundle(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_add_engines_from_weights_in_files_of_their_own(make_bundle: MakeBundle) -> None:
    folder, _ = make_bundle("int8-weight-only")
    add_engines(folder, "rtx-40")
    add_engines(folder, "rtx-30")
    assert len(open_bundle(folder).manifest.engines) == 4


@pytest.mark.parametrize(
    ("precision", "compute"),
    [
        ("fp32", "fp32"),
        ("fp16", "fp16"),
        ("int8-weight-only", "fp16"),
        ("int8", "int8"),
        ("int4", "fp16"),
    ],
)
def test_engines_of_narrow_weights_multiply_in_half_precision(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, precision: Precision, compute: str
) -> None:
    folder, manifest = make_bundle(precision)
    before = _files(folder)
    types: set[int] = set()

    def record(job: BuildJob, **_: object) -> BuildOutcome:
        model = onnx.shape_inference.infer_shapes(onnx.load(job.graph))
        dtypes = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
        types.update(dtypes[n.output[0]] for n in model.graph.node if n.op_type == "MatMul")
        Path(job.output).write_bytes(b"engine")
        return BuildOutcome(builder_version="1", seconds=1.0, peak_memory_bytes=1)

    monkeypatch.setattr("moir_edge.export.engine_work.run_build", record)
    entries = build_engines(folder, manifest, "rtx-40")
    assert {entry.compute for entry in entries} == {compute}
    # what surrounds products in int8 is float16 too
    assert types == {TensorProto.FLOAT if compute == "fp32" else TensorProto.FLOAT16}
    new = {"engines", "engines/rtx-40"} | {entry.path for entry in entries}
    assert _files(folder) == before | new


def test_a_full_disk_leaves_no_engine(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = make_bundle()

    def full(job: BuildJob, **_: object) -> BuildOutcome:
        # /dev/full takes nothing: the worker itself meets the error
        return run_build(replace(job, output="/dev/full"))

    monkeypatch.setattr("moir_edge.export.engine_work.run_build", full)
    with pytest.raises(OSError, match="No space left"):
        build_engines(folder, manifest, "rtx-40")
    assert not (folder / "engines").exists()
