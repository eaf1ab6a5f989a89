"""Bundles on OpenVINO against the same bundles on ONNX Runtime: what is computed, what is kept on disk, what is refused."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import moir_edge
from moir_edge.bundle import open_bundle
from moir_edge.calibration import CalibrationSettings
from moir_edge.errors import BundleError, UnsupportedError
from moir_edge.export import assemble
from moir_edge.precisions import BF16, FP16, FP32, INT4, INT8, INT8_WEIGHT_ONLY
from moir_edge.runtime import EdgeModel, providers
from moir_edge.runtime.generation import prepare_prompt
from moir_edge.runtime.interface import DecoderInputs
from moir_edge.runtime.openvino import compiled
from moir_edge.runtime.pruning import Pruning, selector_named
from moir_edge.runtime.timing import Stopwatch
from tests.unit.conftest import require_openvino

require_openvino()

# Float32 on two libraries, of weights that are the same numbers.
SAME = 1e-4
PRECISIONS = (FP32, FP16, BF16, INT8_WEIGHT_ONLY, INT4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/moir-edge/openvino"


@pytest.fixture(scope="module")
def bundles(
    traced_models: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("openvino")
    traced = traced_models("llava")
    return {one: assemble(traced, folder / one, precision=one) for one in PRECISIONS}


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime without rounded activations, as parity measures it."""
    monkeypatch.setattr(providers, "session_config", partial(_exact, providers.session_config))


def _exact(config: Any, component: str, precision: str, version: str, *, exact: bool) -> Any:
    del exact
    return config(component, precision, version, exact=True)


def _picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (31, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _logits(model: EdgeModel, steps: int = 3, pruning: Pruning | None = None) -> Any:
    inputs = model.encode(["what is it, then?", "no"], [[_picture()], [_picture(1)]])
    prompt = prepare_prompt(
        model.sessions,
        model.processor.family,
        inputs,
        Stopwatch(),
        router=True,
        pruning=pruning,
    )
    logits, state = model.sessions.prefill(prompt.embeds, prompt.decoder)
    found = [logits]
    for step in range(steps):
        found.append(model.sessions.decode(np.array([9 + step, 5]), state))
    return np.stack(found)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_are_those_of_onnx_runtime(bundles: dict[str, Path], precision: str) -> None:
    models = [
        moir_edge.load(bundles[precision], threads=1, provider=one) for one in ("openvino", "cpu")
    ]
    ours, theirs = map(_logits, models)
    np.testing.assert_allclose(ours, theirs, atol=SAME)
    sessions = models[0].sessions
    assert re.fullmatch(r"OpenVINO 20\d\d\.\d+\.\d+", sessions.backend)
    assert sessions.provider == "openvino"
    assert sessions.component_providers() == {
        "vision": "OpenVINO CPU",
        "embedding": models[1].sessions.component_providers()["embedding"],
        "router": "CPUExecutionProvider",
        "decoder": "OpenVINO CPU",
    }
    entries = models[0].manifest.components.values()
    assert set(sessions.files()) == {name for one in entries for name in (one.graph, *one.data)}
    assert sessions.memory() == {}


@pytest.mark.usefixtures("exact")
def test_image_tokens_are_dropped_as_in_onnx_runtime(bundles: dict[str, Path]) -> None:
    half = Pruning(share=0.5, selector=selector_named("density"), needs_density=True, seed=0)
    models = [moir_edge.load(bundles[FP32], threads=1, provider=one) for one in ("openvino", "cpu")]
    ours, theirs = (_logits(one, pruning=half) for one in models)
    np.testing.assert_allclose(ours, theirs, atol=SAME)
    assert np.abs(ours - _logits(models[0])).max() > 10 * SAME


def test_rounded_activations_lie_on_the_same_grid(
    traced_models: Callable[[str], Any], bundles: dict[str, Path], tmp_path: Path
) -> None:
    _picture().save(tmp_path / "picture.png")
    row = {"image": "picture.png", "prompt": "what is it?", "answers": ["red"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    settings = CalibrationSettings(data=tmp_path / "rows.jsonl", rows=1, decode_steps=1)
    bundle = assemble(
        traced_models("llava"), tmp_path / "int8", precision=INT8, calibration=settings
    )
    ours, theirs = (
        _logits(moir_edge.load(bundle, threads=1, provider=one)) for one in ("openvino", "cpu")
    )
    unrounded = _logits(moir_edge.load(bundles[FP32], threads=1, provider="cpu"))
    # A value in the middle between two steps goes up in one library and down in the other. That is less than all the rounding.
    assert np.abs(ours - theirs).max() < np.abs(theirs - unrounded).max()
    assert np.abs(ours - unrounded).max() < 1.5 * np.abs(theirs - unrounded).max()


def test_attention_reads_the_cache_where_it_lies(bundles: dict[str, Path]) -> None:
    model: Any = moir_edge.load(bundles[FP32], threads=1, provider="openvino")
    nodes = model.sessions._decoder.compiled.model.get_runtime_model().get_ops()
    kinds = [str(node.get_rt_info()["layerType"].value) for node in nodes]
    layers = model.manifest.model.num_layers
    assert kinds.count("ScaledDotProductAttention") == layers
    # Were a cache joined with new keys by an operation of its own, it would be one per key and value.
    rotary = 2 * layers
    assert kinds.count("Concatenation") <= rotary
    assert kinds.count("SoftMax") == 0


def test_the_fast_mode_says_what_it_rounds(bundles: dict[str, Path]) -> None:
    model = moir_edge.load(bundles[INT4], threads=1, provider="openvino-fast")
    assert model.sessions.provider == "openvino-fast"
    said = model.sessions.backend
    assert said.endswith("cache in u8)")
    assert "activations to 8 bits in groups of " in said
    exact = moir_edge.load(bundles[INT4], threads=1, provider="openvino")
    # Rounded to 8 bits and less, on logits of the order of 1.
    difference = np.abs(_logits(model) - _logits(exact)).max()
    assert 0 < difference < 0.5


def test_attention_of_another_form_is_right_and_named(
    tiny_bundle: Path, picture: Callable[..., Image.Image]
) -> None:
    models = [moir_edge.load(tiny_bundle, provider=one) for one in ("openvino", "cpu")]
    rows = (["What is left?", "And a much longer question"], [[picture(12, 12)], []])
    ours, theirs = (one.generate(*rows, max_new_tokens=12) for one in models)
    assert ours.token_ids == theirs.token_ids
    assert models[0].sessions.backend.endswith(
        "(attention of 2 layers in parts: the scores are changed before the mask: found Multiply)"
    )


def test_quantized_graphs_are_compiled_once(
    bundles: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = partial(moir_edge.load, bundles[INT8_WEIGHT_ONLY], threads=1, provider="openvino")
    first = _logits(load())
    kept = sorted(cache.iterdir())
    assert len(kept) == 2
    assert cache.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(compiled, "_compiled", None)  # to call it would fail
    np.testing.assert_array_equal(_logits(load()), first)
    assert sorted(cache.iterdir()) == kept


def test_the_note_of_a_graph_is_kept_with_it(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "PRECISIONS", {FP32: compiled.PRECISIONS[INT4]})
    first, second = (moir_edge.load(tiny_bundle, provider="openvino") for _ in range(2))
    assert second.sessions.backend == first.sessions.backend
    assert "in parts" in second.sessions.backend


def test_float_graphs_are_not_kept(bundles: dict[str, Path], cache: Path) -> None:
    moir_edge.load(bundles[FP32], threads=1, provider="openvino")
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["one byte", "cut", "empty", "foreign"])
def test_a_damaged_file_is_written_anew(bundles: dict[str, Path], cache: Path, damage: str) -> None:
    load = partial(moir_edge.load, bundles[INT4], threads=1, provider="openvino")
    first = _logits(load())
    contents = {path: path.read_bytes() for path in cache.iterdir()}
    for path, content in contents.items():
        changed = {
            "one byte": content[:99] + bytes([content[99] ^ 1]) + content[100:],
            "cut": content[:-7],
            "empty": b"",
            "foreign": compiled.sealed(b"not a graph", ""),
        }
        path.write_bytes(changed[damage])
    np.testing.assert_array_equal(_logits(load()), first)
    for path, content in contents.items():
        assert len(path.read_bytes()) == len(content)


def test_changed_weights_are_not_taken_for_the_old_ones(
    bundles: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    source = bundles[INT4]
    for path in source.rglob("*"):
        target = folder / path.relative_to(source)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    load = partial(moir_edge.load, folder, threads=1, provider="openvino", verify=False)
    first = _logits(load())
    kept = set(cache.iterdir())
    data = folder / open_bundle(folder, verify=False).manifest.components["decoder"].data[0]
    times = data.stat()
    content = bytearray(data.read_bytes())
    content[: len(content) // 2] = bytes(reversed(content[: len(content) // 2]))
    data.write_bytes(content)
    os.utime(data, ns=(times.st_atime_ns, times.st_mtime_ns))  # not even the time tells
    assert not np.array_equal(_logits(load()), first)
    assert kept < set(cache.iterdir())


def test_a_cache_that_cannot_be_written_costs_only_time(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    model = moir_edge.load(bundles[INT4], threads=1, provider="openvino")
    assert np.isfinite(_logits(model)).all()


def test_graphs_of_a_gpu_are_refused(traced_models: Callable[[str], Any], tmp_path: Path) -> None:
    bundle = assemble(
        traced_models("llava"), tmp_path / "gpu", target="jetson-orin-nano", precision="fp16"
    )
    with pytest.raises(UnsupportedError) as caught:
        moir_edge.load(bundle, provider="openvino-fast")
    assert str(caught.value) == (
        f"the provider openvino-fast runs bundles for a CPU and {bundle} is for jetson-orin-nano; "
        "export it with `target='cpu'`, or run with `provider='cpu'`"
    )


def test_a_graph_that_is_not_the_manifests_is_refused(
    make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_bundle(tmp_path / "bundle")
    graph = onnx.load(folder / "vision.onnx")
    graph.graph.output.append(graph.graph.output[0])
    graph.graph.output[1].name = "pixel_values"
    onnx.save(graph, folder / "vision.onnx")
    with pytest.raises(BundleError, match=r"vision\.onnx has the outputs .*; export the bundle"):
        moir_edge.load(folder, provider="openvino", verify=False)


def test_a_file_that_is_no_graph_is_one_line(
    make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_bundle(tmp_path / "bundle")
    content = (folder / "vision.onnx").read_bytes()
    (folder / "vision.onnx").write_bytes(content.replace(b"MatMul", b"MatMuX"))
    with pytest.raises(BundleError) as caught:
        moir_edge.load(folder, provider="openvino", verify=False)
    assert str(caught.value).startswith(f"OpenVINO cannot load {folder / 'vision.onnx'}: ")
    assert "\n" not in str(caught.value)


def test_inputs_that_do_not_fit_are_one_line(bundles: dict[str, Path]) -> None:
    sessions = moir_edge.load(bundles[FP32], threads=1, provider="openvino").sessions
    inputs = DecoderInputs.of_mask(np.ones((1, 4), np.int64))
    with pytest.raises(BundleError, match=r"OpenVINO cannot run .*decoder\.onnx: "):
        sessions.prefill(np.zeros((1, 4, 3), np.float32), inputs)
    with pytest.raises(BundleError, match=r"OpenVINO cannot run .*vision\.onnx: "):
        sessions.run_vision({"pixel_values": np.zeros((1, 1), np.float32)})
