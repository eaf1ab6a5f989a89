from __future__ import annotations

import json
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
    component_sha256,
    open_bundle,
    seal,
    staged_bundle,
)
from moir_edge.calibration import LayerOptions, observe, quantize
from moir_edge.engines import add_engines, build_engines
from moir_edge.engines.jobs import BuildJob, BuildOutcome
from moir_edge.engines.process import run_build
from moir_edge.errors import BundleError, UnsupportedError
from moir_edge.graphs.half import to_half
from moir_edge.precisions import PrecisionName

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
    if precision in ("int8", "fp8"):
        # unsigned, as a bundle for the CPU has them
        observers = observe(model, _feeds(model))
        return quantize(model, precision, observers=observers, options=LayerOptions(signed=False))[
            0
        ]
    if precision in ("int8-weight-only", "int4", "nvfp4"):
        return quantize(model, precision)[0]
    converted = ir.from_proto(model)
    if precision == "fp16":
        to_half(converted)
    return ir.to_proto(converted)


def _manifest(precision: PrecisionName) -> Manifest:
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
        # Half precision of a bundle for a processor is storage alone; these graphs multiply in it.
        target="rtx-40" if precision == "fp16" else "cpu",
        precision=precision,
        router=None,
        router_sha256=None,
        components=components,
    )


MakeBundle = Callable[..., tuple[Path, Manifest]]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    return bundle_maker(tmp_path)


def bundle_maker(tmp_path: Path) -> MakeBundle:
    """Return a function that writes a bundle of two small components."""

    def make(
        precision: PrecisionName = "fp32", decoder: onnx.ModelProto | None = None
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


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-weight-only", "int8", "int4", "fp8"])
def test_every_precision_builds(make_bundle: MakeBundle, precision: PrecisionName) -> None:
    folder, manifest = make_bundle(precision)
    entries = build_engines(folder, manifest, "rtx-40")
    assert [entry.component for entry in entries] == ["embedding", "decoder"]
    for entry in entries:
        assert entry.path == f"engines/rtx-40/{entry.component}.engine"
        assert (folder / entry.path).stat().st_size > 10_000
        assert entry.compute_capability == "8.9"
        assert entry.builder_version == trt.__version__
        assert entry.build_seconds > 0


@pytest.mark.parametrize("target", ["rtx-50", "dgx-spark"])
@pytest.mark.parametrize("precision", ["fp8", "nvfp4"])
def test_narrow_floats_build_for_the_latest(
    make_bundle: MakeBundle, precision: PrecisionName, target: str
) -> None:
    folder, manifest = make_bundle(precision)
    entries = build_engines(folder, manifest, target)
    assert [entry.compute for entry in entries] == ["fp8" if precision == "fp8" else "fp16"] * 2


@pytest.mark.parametrize(
    ("precision", "target", "reason"),
    [
        ("fp8", "rtx-30", "rtx-30 does not run fp8: FP8 needs SM 89 or later; rtx-30 is SM 86"),
        ("nvfp4", "rtx-40", "rtx-40 does not run nvfp4: NVFP4 needs SM 100 or later"),
    ],
)
def test_narrow_floats_are_refused_on_a_target_that_lacks_them(
    make_bundle: MakeBundle, precision: PrecisionName, target: str, reason: str
) -> None:
    folder, manifest = make_bundle(precision)
    with pytest.raises(UnsupportedError, match=reason):
        build_engines(folder, manifest, target)
    assert not (folder / "engines").exists()


def test_int4_with_zero_points_is_refused(make_bundle: MakeBundle) -> None:
    unsigned, _ = quantize(_decoder(), "int4", options=LayerOptions(int4_method="hqq"))
    folder, manifest = make_bundle("int4")
    onnx.save(unsigned, folder / "decoder.onnx")
    with pytest.raises(UnsupportedError, match=r"zero points.*export with rtn, awq or gptq"):
        build_engines(folder, manifest, "rtx-40")
    assert not (folder / "engines").exists()


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
        steps = [(step, total) for name, step, total in calls if name == f"compile {component}"]
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


@pytest.mark.parametrize("other", ["rtx-40", "rtx-50"])
def test_a_bundle_that_another_build_changes_meanwhile(make_bundle: MakeBundle, other: str) -> None:
    """The same engines are welcome twice; those of another target must not get lost."""
    folder, _ = make_bundle()
    calls: list[str] = []

    def meanwhile(stage: str, done: int, total: int) -> None:
        calls.append(stage)
        if len(calls) == 1:
            add_engines(folder, other)

    if other == "rtx-40":
        add_engines(folder, "rtx-40", progress=meanwhile)
    else:
        with pytest.raises(
            BundleError,
            match=r"bundle exists in another version than its engines were built for: another process wrote it "
            "meanwhile; build again",
        ):
            add_engines(folder, "rtx-40", progress=meanwhile)
    assert {engine.target for engine in open_bundle(folder).manifest.engines} == {other}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


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
        ("fp8", "fp8"),
    ],
)
def test_engines_of_narrow_weights_multiply_in_half_precision(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, precision: PrecisionName, compute: str
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

    monkeypatch.setattr("moir_edge.engines.work.run_build", record)
    entries = build_engines(folder, manifest, "rtx-40")
    assert {entry.compute for entry in entries} == {compute}
    # what surrounds products in 8 bits is float16 too
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

    monkeypatch.setattr("moir_edge.engines.work.run_build", full)
    with pytest.raises(OSError, match="No space left"):
        build_engines(folder, manifest, "rtx-40")
    assert not (folder / "engines").exists()
