"""Calibration of whole models: statistics against torch, resuming, and what an int8 bundle holds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import moir_edge
from moir_edge.bundle import open_bundle
from moir_edge.bundle.files import ModelFiles
from moir_edge.calibration import CalibrationSettings
from moir_edge.calibration.collection import collect
from moir_edge.calibration.rows import CalibrationRows
from moir_edge.calibration.taps import GraphObservers
from moir_edge.errors import DataError, NotFiniteError, UnsupportedError
from moir_edge.export import assemble, export_bundle
from moir_edge.graphs.sessions import TappedComponent, greedy_tokens
from moir_edge.runtime.processor import Processor

PROMPTS = ("What is it?", "How many are there in this picture?", "True or false: it is red.")


@pytest.fixture(scope="module")
def routed(traced_models: Callable[[str], Any]) -> Any:
    """The traced graphs of a retrofitted LLaVA."""
    return traced_models("llava")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty rows with one noise picture each."""
    folder = tmp_path_factory.mktemp("calib")
    random = np.random.default_rng(3)
    lines = []
    for index in range(40):
        pixels = random.integers(0, 256, (30, 26, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        lines.append(json.dumps({"image": f"{index}.png", "prompt": PROMPTS[index % 3]}))
    (folder / "calib.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "calib.jsonl"


def _rows(routed: Any, data: Path, limit: int) -> CalibrationRows:
    processor = Processor(ModelFiles(routed.checkpoint.folder), routed.facts)
    return CalibrationRows(data, processor, limit=limit, max_bad_rows=0)


def _collect(
    routed: Any, data: Path, *, limit: int = 40, cache: Path | None = None, **options: Any
) -> dict[str, GraphObservers]:
    return collect(
        routed.graphs,
        routed.facts,
        options.pop("rows", None) or _rows(routed, data, limit),
        components={"vision": False, "decoder": True},
        decode_steps=options.pop("decode_steps", 2),
        cache=cache,
        **options,
    )


def _states(observers: dict[str, GraphObservers]) -> dict[str, np.ndarray]:
    return {
        f"{component} {name} {field}": array
        for component, own in observers.items()
        for name, observer in own.items()
        for field, array in observer.state().items()
    }


def test_statistics_are_those_of_torch(routed: Any, data: Path) -> None:
    import torch

    found = _collect(routed, data, limit=5, decode_steps=0)["decoder"]
    model = routed.checkpoint.model
    seen: list[np.ndarray] = []
    layer = model.get_submodule(routed.checkpoint.architecture.language_model).layers[1]
    handle = layer.mlp.down_proj.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].detach().numpy()[0])
    )
    try:
        for row in _rows(routed, data, 5):
            tiles = torch.from_numpy(row.inputs.pixel_values)
            with torch.no_grad():
                model(
                    input_ids=torch.from_numpy(row.inputs.input_ids),
                    attention_mask=torch.from_numpy(row.inputs.attention_mask),
                    pixel_values=routed.checkpoint.architecture.model_pixels(tiles, 1),
                )
    finally:
        handle.remove()
    expected = np.concatenate(seen)
    (observer,) = [item for item in found.values() if _near(item.channel_max, expected)]
    assert observer.tokens == len(expected)
    # Runtimes differ in the order of float32 sums.
    np.testing.assert_allclose(observer.largest, np.abs(expected).max(), rtol=1e-4)
    np.testing.assert_allclose(observer.gram, expected.T @ expected, rtol=1e-3, atol=1e-5)


def _near(maxima: np.ndarray, expected: np.ndarray) -> bool:
    return maxima.shape == expected.shape[1:] and np.allclose(
        maxima, np.abs(expected).max(axis=0), rtol=1e-3
    )


def test_decoding_is_seen_too(routed: Any, data: Path) -> None:
    prefill = _collect(routed, data, limit=2, decode_steps=0)["decoder"]
    both = _collect(routed, data, limit=2, decode_steps=3)["decoder"]
    more = {both[name].tokens - prefill[name].tokens for name in prefill}
    assert len(more) == 1
    assert 0 < more.pop() <= 6


def test_an_interrupted_calibration_resumes_to_identical_statistics(
    routed: Any, data: Path, tmp_path: Path
) -> None:
    whole = _states(_collect(routed, data))

    def stop(stage: str, done: int, total: int) -> None:
        if done == 35:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _collect(routed, data, cache=tmp_path, progress=stop)
    (saved,) = tmp_path.iterdir()
    assert saved.suffix == ".statistics"
    assert b'"rows": 32,' in saved.read_bytes()
    resumed = _states(_collect(routed, data, cache=tmp_path))
    assert list(resumed) == list(whole)
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole)


def test_a_finished_calibration_runs_no_graph_again(
    routed: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _states(_collect(routed, data, limit=3, cache=tmp_path))

    def never(*_: object) -> None:
        raise AssertionError("a graph ran")

    monkeypatch.setattr("moir_edge.calibration.passes.TappedSessions.prompt", never)
    again = _states(_collect(routed, data, limit=3, cache=tmp_path))
    assert all(np.array_equal(again[name], first[name]) for name in first)


@pytest.fixture
def one_layer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no two activations be watched in one pass."""
    monkeypatch.setattr("moir_edge.calibration.groups.STATISTICS_BYTES", 1)


@pytest.mark.usefixtures("one_layer_at_a_time")
def test_layers_watched_one_by_one_give_the_same_statistics(
    routed: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[tuple[int, int]] = []
    ran: list[str] = []
    arrays = TappedComponent.arrays

    def watched(self: TappedComponent, *arguments: Any, **named: Any) -> Any:
        ran.append(self.name)
        return arrays(self, *arguments, **named)

    monkeypatch.setattr(TappedComponent, "arrays", watched)
    apart = _collect(
        routed, data, limit=3, cache=tmp_path, progress=lambda _, *done: reports.append(done)
    )
    activations = [name for own in apart.values() for name in own]
    passes = len(activations)
    assert passes == 9
    assert reports[0] == (0, 3 * passes)
    assert reports[-1] == (3 * passes, 3 * passes)
    assert len(list(tmp_path.iterdir())) == passes
    # The tower runs once as a whole and once by its layers; and once as a whole again for what the decoder starts from.
    layers = len(apart["vision"])
    assert ran.count("vision") == 3 * (1 + (layers - 1) + 1)
    # Only whole runs look up tokens: the prompts' in the tower's pass, the answers' too in the decoder's first.
    steps = ran.count("embedding") - 3 - 3
    assert 0 < steps <= 3 * 2
    assert ran.count("decoder") == 3 * (passes - layers - 1) + steps * (passes - layers - 1)
    # Σ x xᵀ of a layer is read when it is asked for.
    wide = next(one for one in apart["decoder"].values())
    assert wide.gram is not wide.gram
    with pytest.raises(ValueError, match="were put aside and take in no more values"):
        wide.update(np.zeros((1, len(wide.channel_max)), np.float32))
    monkeypatch.undo()
    together = _states(_collect(routed, data, limit=3))
    assert all(np.array_equal(one, together[name]) for name, one in _states(apart).items())
    assert set(together) == set(_states(apart))


@pytest.mark.usefixtures("one_layer_at_a_time")
@pytest.mark.parametrize("rows_done", [3 * 4 + 1, 3 * 6])
def test_an_interrupted_group_of_layers_resumes_to_identical_statistics(
    routed: Any, data: Path, tmp_path: Path, rows_done: int
) -> None:
    """Within a pass or at its end: what the passes before left is gone, and the whole model runs again."""
    whole = _states(_collect(routed, data, limit=3))

    def stop(stage: str, done: int, total: int) -> None:
        if done == rows_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _collect(routed, data, limit=3, cache=tmp_path, progress=stop)
    assert len(list(tmp_path.iterdir())) == (rows_done - 1) // 3
    resumed = _states(_collect(routed, data, limit=3, cache=tmp_path))
    assert list(resumed) == list(whole)
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.usefixtures("one_layer_at_a_time")
@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_layers_watched_one_by_one_give_the_same_bundle(
    routed: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    settings = CalibrationSettings(data=data, rows=3)
    options: Any = {"precision": "int4", "calibration": settings, "int4_method": method}
    apart = assemble(routed, tmp_path / "apart", **options)
    monkeypatch.undo()
    together = assemble(routed, tmp_path / "together", **options)
    assert _hashes(apart) == _hashes(together)


@pytest.mark.usefixtures("one_layer_at_a_time")
def test_a_pass_over_the_tower_runs_no_decoder(
    routed: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the decoder ran")

    monkeypatch.setattr("moir_edge.calibration.passes.TappedSessions.prefill", never)
    found = collect(
        routed.graphs,
        routed.facts,
        _rows(routed, data, 1),
        components={"vision": True},
        decode_steps=2,
    )
    assert all(one.tokens for one in found["vision"].values())


@pytest.mark.usefixtures("one_layer_at_a_time")
def test_rows_that_change_between_two_passes_are_refused(
    routed: Any, data: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.jsonl"
    lines = [json.loads(line) for line in data.read_text().splitlines()[:2]]
    lines = [{**line, "image": str(data.parent / line["image"])} for line in lines]
    own.write_text("\n".join(map(json.dumps, lines)))

    def change(_: str, done: int, __: int) -> None:
        if done == 2:
            own.write_text(json.dumps({**lines[0], "prompt": "Another?"}))

    with pytest.raises(DataError, match=r"own\.jsonl changed while it was read; calibrate again"):
        _collect(routed, own, limit=2, progress=change)


def test_a_cache_of_other_rows_is_refused(routed: Any, data: Path, tmp_path: Path) -> None:
    _collect(routed, data, limit=3, cache=tmp_path / "cache")
    lines = data.read_text().splitlines()
    other = data.with_name("other.jsonl")
    other.write_text("\n".join(reversed(lines)), encoding="utf-8")
    with pytest.raises(DataError, match=r"was made from different rows than .*other\.jsonl"):
        _collect(routed, other, limit=3, cache=tmp_path / "cache")
    other.write_text("\n".join(lines[:2]), encoding="utf-8")
    with pytest.raises(DataError, match="was made from different rows"):
        _collect(routed, other, limit=3, cache=tmp_path / "cache")


def test_a_damaged_cache_is_refused(routed: Any, data: Path, tmp_path: Path) -> None:
    _collect(routed, data, limit=1, cache=tmp_path)
    (saved,) = tmp_path.iterdir()
    saved.write_bytes(saved.read_bytes()[:1000])
    with pytest.raises(
        DataError, match=r"calibration cache .* is damaged \(it has 1,000 bytes, .*\); remove it"
    ):
        _collect(routed, data, limit=1, cache=tmp_path)
    saved.unlink()
    os.mkfifo(saved)  # opening it would never end
    with pytest.raises(DataError, match=r"calibration cache .* is not a regular file; remove it"):
        _collect(routed, data, limit=1, cache=tmp_path)


def test_a_cache_of_another_model_is_refused(routed: Any, data: Path, tmp_path: Path) -> None:
    _collect(routed, data, limit=1, cache=tmp_path)
    (saved,) = tmp_path.iterdir()
    before = saved.read_bytes()
    _collect(routed, data, limit=1, cache=tmp_path, decode_steps=1)
    (other,) = set(tmp_path.iterdir()) - {saved}
    other.write_bytes(before)
    with pytest.raises(DataError, match="was made from another model or with other settings"):
        _collect(routed, data, limit=1, cache=tmp_path, decode_steps=1)


def test_a_step_whose_logits_are_not_finite_has_no_greedy_token() -> None:
    logits = np.array([[0.0, 2.0, 1.0], [1.0, 0.0, np.nan]], np.float32)
    assert greedy_tokens(logits[:1], "calibration").tolist() == [1]
    with pytest.raises(
        NotFiniteError,
        match=r"^calibration, row 3: of the decoder's logits, 1 of 6 values is NaN or infinite; its weights",
    ):
        greedy_tokens(logits, "calibration, row 3")


@pytest.fixture(scope="module")
def bundle(routed: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = CalibrationSettings(data=data, rows=12, min_snr_db=0)
    output = tmp_path_factory.mktemp("int8") / "bundle"
    return assemble(routed, output, precision="int8", calibration=settings)


def test_bundle_says_what_it_was_calibrated_with(bundle: Path, routed: Any, data: Path) -> None:
    manifest = open_bundle(bundle).manifest
    precisions = {name: entry.precision for name, entry in manifest.components.items()}
    assert precisions == {
        "vision": "int8-weight-only",
        "embedding": "int8-weight-only",
        "router": "fp32",
        "decoder": "int8",
    }
    assert manifest.calibration is not None
    rows = _rows(routed, data, 12)
    list(rows)
    record = manifest.calibration["data"]
    assert (record["sha256"], record["rows"], record["bad_rows"]) == (rows.sha256, 12, [])
    report = json.loads((bundle / "reports" / "quantization.json").read_text())
    layers = [entry for entry in report["decoder"]["weights"] if entry["precision"] == "int8"]
    # q, o, gate, up and down in each of two layers; k and v have 512 weights, too few to gain from it
    assert len(layers) == 10
    assert all(entry["activation"]["scale"] > 0 for entry in layers)


def test_bundle_answers_as_torch_does(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    # Two narrow layers of random weights: about 1 % noise per layer on logits within ±2.
    assert manifest.parity["max_abs_error"]["prefill logits"] < 0.2
    assert manifest.parity["max_abs_error"]["decode logits"] < 0.2


def test_the_same_data_give_the_same_bytes(bundle: Path, routed: Any, data: Path) -> None:
    settings = CalibrationSettings(data=data, rows=12, min_snr_db=0)
    again = assemble(routed, bundle.with_name("again"), precision="int8", calibration=settings)
    assert _hashes(bundle) == _hashes(again)


def _hashes(bundle: Path) -> dict[str, str]:
    return {file.path: file.sha256 for file in open_bundle(bundle).manifest.files}


def test_gpu_targets_get_signed_activations(routed: Any, data: Path, tmp_path: Path) -> None:
    import onnx

    settings = CalibrationSettings(data=data, rows=4, smoothing="off", min_snr_db=0)
    folder = assemble(
        routed,
        tmp_path / "out",
        target="jetson-orin-nano",
        precision="int8",
        component_precision={"vision": "fp32"},
        calibration=settings,
    )
    model = onnx.load(folder / "decoder.onnx", load_external_data=False)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    zeros = [node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {types[name] for name in zeros} == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_int4_by_data(routed: Any, data: Path, tmp_path: Path, method: str) -> None:
    settings = CalibrationSettings(data=data, rows=4)
    folder = assemble(
        routed,
        tmp_path / "out",
        precision="int4",
        component_precision={"vision": "int4"},
        calibration=settings,
        int4_method=method,
    )
    report = json.loads((folder / "reports" / "quantization.json").read_text())
    # The vision tower is 16 wide: only its projector holds a block of 32.
    for component, least in (("vision", 1), ("decoder", 10)):
        layers = _in(report[component], "int4")
        assert len(layers) >= least
        assert {one["method"] for one in layers} == {method}
        assert all("output_signal_to_noise_db" in one for one in layers)
    manifest = open_bundle(folder).manifest
    assert manifest.calibration is not None
    # The tied head apart, 16-wide weights are what falls back to 8 bits.
    assert manifest.calibration["decoder"]["method"].startswith(f"weights only, int4 by {method}")
    assert manifest.calibration["data"]["rows"] == 4
    # Two narrow layers of random weights at 4 bits: about a tenth of logits within ±2.
    assert manifest.parity["max_abs_error"]["prefill logits"] < 1


def test_int8_and_int4_by_data_side_by_side(routed: Any, data: Path, tmp_path: Path) -> None:
    folder = assemble(
        routed,
        tmp_path / "out",
        precision="int8",
        component_precision={"vision": "int4"},
        calibration=CalibrationSettings(data=data, rows=4, min_snr_db=0),
    )
    report = json.loads((folder / "reports" / "quantization.json").read_text())
    assert report["decoder"]["method"] == "static, ranges by mse"
    smoothed = [one["activation"].get("smoothing") for one in _in(report["decoder"], "int8")]
    assert 0.5 in smoothed
    assert {one["method"] for one in _in(report["vision"], "int4")} == {"gptq"}


@pytest.mark.parametrize(("precision", "rows"), [("fp8", 4), ("nvfp4", None)])
def test_narrow_floats(
    routed: Any, data: Path, tmp_path: Path, precision: str, rows: int | None
) -> None:
    settings = None if rows is None else CalibrationSettings(data=data, rows=rows, min_snr_db=0)
    folder = assemble(
        routed,
        tmp_path / "out",
        target="jetson-thor",
        precision=precision,
        component_precision={"vision": precision},
        calibration=settings,
    )
    report = json.loads((folder / "reports" / "quantization.json").read_text())
    layers = _in(report["decoder"], precision)
    assert len(layers) == 10
    for layer in layers:
        assert layer["scale"][0] > 0
        assert layer["clipped_share"] < 0.1
        assert layer["signal_to_noise_db"] > (28 if precision == "fp8" else 17)
        assert ("activation" in layer) == (precision == "fp8")
    # The bundle runs where its engines cannot be: errors are those of the rounding, not of the route.
    manifest = open_bundle(folder).manifest
    assert manifest.parity["max_abs_error"]["prefill logits"] < 1
    assert len(moir_edge.load(folder).generate(PROMPTS[:1], max_new_tokens=2).token_ids) == 1


def _in(component: dict[str, Any], precision: str) -> list[dict[str, Any]]:
    return [one for one in component["weights"] if one["precision"] == precision]


def test_settings_are_checked_before_any_work(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"calibration data: .*none\.jsonl does not exist"):
        CalibrationSettings(data=tmp_path / "none.jsonl")
    with pytest.raises(UnsupportedError, match="method 'kl': known: entropy, minmax"):
        CalibrationSettings(data=data, method="kl")
    with pytest.raises(UnsupportedError, match=r"smoothing is 1\.5; expected search, off or"):
        CalibrationSettings(data=data, smoothing=1.5)
    with pytest.raises(DataError, match="calibration rows is 0; expected at least 1"):
        CalibrationSettings(data=data, rows=0)
    with pytest.raises(UnsupportedError, match="int8 needs calibration data"):
        export_bundle(tmp_path / "absent", tmp_path / "out", precision="int8")
    with pytest.raises(UnsupportedError, match="this export quantizes no component"):
        export_bundle(
            tmp_path / "absent", tmp_path / "out", calibration=CalibrationSettings(data=data)
        )
    with pytest.raises(UnsupportedError, match="int4 by awq needs calibration data"):
        export_bundle(tmp_path / "absent", tmp_path / "out", precision="int4", int4_method="awq")
