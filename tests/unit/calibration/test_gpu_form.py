"""What a GPU target's bundle holds: half precision around quantized weights, and a router that its builder compiles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto

from moir_edge.bundle import open_bundle
from moir_edge.engines import build_engines
from moir_edge.engines.jobs import BuildJob, BuildOutcome
from moir_edge.export.assembly import assemble
from moir_edge.export.precisions import plan_precisions
from moir_edge.graphs.half import to_half

WIDTH = 32


def _run(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    known = {value.name for value in session.get_inputs()}
    outputs = session.run(names, {name: feed for name, feed in feeds.items() if name in known})
    return dict(zip(names, outputs, strict=True))


def _router_feeds(*, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "inputs_embeds": (scale * rng.standard_normal((1, 12, WIDTH))).astype(np.float32),
        "image_positions": np.arange(5)[None],
        "text_positions": np.arange(5, 12)[None],
        "text_mask": np.ones((1, 7), bool),
    }


def _product_types(path: Path) -> set[int]:
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    return {types[node.output[0]] for node in products if node.output[0] in types}


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_half_router_scores_as_the_float_one(
    traced_models: Callable[[str], Any], scale: float
) -> None:
    router = traced_models("llava").graphs["router"]
    half = router.clone()
    to_half(half)
    assert not half.functions
    feeds = _router_feeds(scale=scale)
    ours, exact = _run(half, feeds), _run(router, feeds)
    # The norm in front takes the scale away; scores are sigmoids of products in 11 bits.
    np.testing.assert_allclose(ours["router_scores"], exact["router_scores"], atol=2e-3)
    np.testing.assert_allclose(
        ours["routed_embeds"], exact["routed_embeds"], rtol=5e-3, atol=5e-3 * scale
    )


def test_activations_of_a_thousand_pass_the_exported_norms(
    traced_models: Callable[[str], Any],
) -> None:
    decoder = traced_models("smolvlm").graphs["decoder"]
    half = decoder.clone()
    to_half(half)
    rng = np.random.default_rng(0)
    feeds: dict[str, np.ndarray] = {
        "inputs_embeds": (1000 * rng.standard_normal((1, 6, WIDTH))).astype(np.float32),
        "attention_mask": np.ones((1, 6), np.int64),
        "position_ids": np.arange(6)[None],
    }
    for value in decoder.graph.inputs:
        if str(value.name).startswith("past_key_values"):
            feeds[str(value.name)] = np.zeros((1, 2, 0, 8), np.float32)
    ours, exact = _run(half, feeds)["logits"], _run(decoder, feeds)["logits"]
    assert np.isfinite(ours).all()
    # Squares of a thousand pass float16's 65,504: a norm in half precision would give zeros or infinity.
    cosine = (ours * exact).sum() / (np.linalg.norm(ours) * np.linalg.norm(exact))
    assert cosine > 0.9999


def test_a_gpu_bundle_is_compiled_as_it_lies(
    traced_models: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = assemble(
        traced_models("smolvlm"), tmp_path / "b", target="rtx-40", precision="int4", engines=False
    )
    manifest = open_bundle(folder).manifest
    assert not manifest.engines
    assert (folder / "engines" / "build-rtx-40.sh").is_file()
    assert manifest.components["decoder"].gpu_form
    assert _product_types(folder / "decoder.onnx") == {TensorProto.FLOAT16}
    graphs: list[str] = []

    def run(job: BuildJob, **_: object) -> BuildOutcome:
        graphs.append(job.graph)
        Path(job.output).write_bytes(b"engine")
        return BuildOutcome(builder_version="1", seconds=1.0, peak_memory_bytes=1)

    monkeypatch.setattr("moir_edge.engines.work.run_build", run)
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (extra `rtx`)")
    build_engines(folder, manifest, "rtx-30")
    assert graphs == [str(folder / f"{name}.onnx") for name in manifest.components]


def test_an_export_in_place_keeps_the_engines_of_unchanged_graphs(
    traced_models: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (extra `rtx`)")
    import tensorrt_rtx

    built: list[str] = []

    def run(job: BuildJob, **_: object) -> BuildOutcome:
        built.append(Path(job.output).stem)
        Path(job.output).write_bytes(b"engine")
        version = tensorrt_rtx.__version__
        return BuildOutcome(builder_version=version, seconds=1.0, peak_memory_bytes=1)

    monkeypatch.setattr("moir_edge.engines.work.run_build", run)
    export = partial(assemble, traced_models("smolvlm"), tmp_path / "b", target="rtx-40")
    export(precision="fp16")
    assert built == ["vision", "embedding", "decoder"]
    built.clear()
    export(precision="fp16", component_precision={"vision": "fp32"}, force=True)
    assert built == ["vision"]
    (tmp_path / "b" / "engines" / "rtx-40" / "decoder.engine").write_bytes(b"damaged")
    built.clear()
    export(precision="fp16", force=True)
    assert built == ["vision", "embedding", "decoder"]


def test_a_cpu_bundle_keeps_float32_around_its_weights(
    traced_models: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = assemble(traced_models("smolvlm"), tmp_path / "b", target="cpu", precision="int4")
    assert not open_bundle(folder).manifest.components["decoder"].gpu_form
    assert _product_types(folder / "decoder.onnx") == {TensorProto.FLOAT}
    assert not (folder / "engines").exists()


def test_turing_gets_its_router_in_half_precision(
    traced_models: Callable[[str], Any], tmp_path: Path
) -> None:
    assert plan_precisions(["router", "decoder"], "rtx-20", "fp16") == {
        "router": "fp16",
        "decoder": "fp16",
    }
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (extra `rtx`)")
    folder = assemble(
        traced_models("llava"), tmp_path / "b", target="rtx-20", precision="fp16", engines=False
    )
    manifest = open_bundle(folder).manifest
    router = manifest.model_copy(update={"components": {"router": manifest.components["router"]}})
    (entry,) = build_engines(folder, router, "rtx-20")
    assert (entry.compute, entry.compute_capability) == ("fp16", "7.5")
