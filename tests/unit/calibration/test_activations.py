from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from moir_edge.calibration import LayerOptions, observe, quantize
from moir_edge.calibration.rewriting import sign_activations
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.targets import session_config

MakeDecoder = Callable[..., onnx.ModelProto]
NAME = "inputs_embeds"


def _feeds(count: int = 4) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(11)
    return [{NAME: random.standard_normal((5, 64)).astype(np.float32)} for _ in range(count)]


def _quantized(make_decoder: MakeDecoder, *, signed: bool = True) -> onnx.ModelProto:
    source = make_decoder()
    observers = observe(source, _feeds())
    return quantize(
        source, "int8", observers=observers, options=LayerOptions(method="minmax", signed=signed)
    )[0]


def _session(
    model: onnx.ModelProto, config: dict[str, str], optimized: Path | None = None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _weights(make_decoder: MakeDecoder) -> dict[str, np.ndarray]:
    tensors = make_decoder().graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in tensors}


def _rounded(values: np.ndarray, step: np.ndarray | float, lowest: int) -> np.ndarray:
    return np.clip(np.rint(values / step), lowest, 127) * step


def test_first_layer_by_hand(make_decoder: MakeDecoder) -> None:
    model = _quantized(make_decoder)
    feeds = _feeds()
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    (quantize_node,) = [
        node
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] == NAME
    ]
    step = np.max([np.abs(feed[NAME]).max() for feed in feeds]) / 127
    assert tensors[quantize_node.input[1]] == pytest.approx(step, rel=1e-6)
    assert tensors[quantize_node.input[2]] == 0
    weight = tensors["up.weight_int8"] * tensors["up.weight_scale"].astype(np.float64)
    expected = _rounded(feeds[0][NAME].astype(np.float64), step, -128) @ weight
    graph = ir.from_proto(model)
    wide = next(node for node in graph.graph if node.name == "up").outputs[0]
    wide.shape = ir.Shape(["batch", 128])
    graph.graph.outputs.append(wide)
    got = ReferenceEvaluator(ir.to_proto(graph)).run(None, feeds[0])[1]
    # Float32 sums of 64 terms.
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("signed", [True, False])
def test_onnx_runtime_computes_in_integers(
    make_decoder: MakeDecoder, signed: bool, tmp_path: Path
) -> None:
    model = _quantized(make_decoder, signed=signed)
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path / "optimized.onnx"
    config = session_config("decoder", "int8", onnxruntime.__version__)
    got = _session(model, config, path).run(None, _feeds()[0])[0]
    operators = Counter(node.op_type for node in onnx.load(path).graph.node)
    # up, then down and odd, which are read through 8 bits; back is a Gemm, which no CPU kernel takes.
    assert operators["MatMulIntegerToFloat"] == 1
    assert operators["QLinearMatMul"] == 2
    assert operators["MatMulNBits"] == 1  # the head
    expected = ReferenceEvaluator(model).run(None, _feeds()[0])[0]
    # The head's kernel rounds its input to 8 bits in blocks of rows.
    assert np.linalg.norm(got - expected) < 0.02 * np.linalg.norm(expected)


def test_both_zero_points_mean_the_same(make_decoder: MakeDecoder) -> None:
    signed, unsigned = (_quantized(make_decoder, signed=flag) for flag in (True, False))
    feed = _feeds()[0]
    first, second = (ReferenceEvaluator(model).run(None, feed)[0] for model in (signed, unsigned))
    assert np.array_equal(first, second)
    converted = ir.from_proto(unsigned)
    sign_activations(converted.graph)
    back = ir.to_proto(converted)
    onnx.checker.check_model(back, full_check=True)
    assert np.array_equal(ReferenceEvaluator(back).run(None, feed)[0], first)
    types = {t.data_type for t in back.graph.initializer if t.name.startswith("zero_point")}
    assert types == {TensorProto.INT8}


def test_result_stays_near_the_float_graph(make_decoder: MakeDecoder) -> None:
    feed = _feeds()[0]
    expected = ReferenceEvaluator(make_decoder()).run(None, feed)[0]
    got = ReferenceEvaluator(_quantized(make_decoder)).run(None, feed)[0]
    # Seven layers at a signal to noise of about 35 dB each.
    assert np.linalg.norm(got - expected) < 0.05 * np.linalg.norm(expected)


def test_precisions_reasons_and_figures(make_decoder: MakeDecoder) -> None:
    source = make_decoder()
    _, summary = quantize(source, "int8", observers=observe(source, _feeds()))
    weights = {weight.node: weight for weight in summary.weights}
    assert {name: weight.precision for name, weight in weights.items()} == {
        "up": "int8",
        "down": "int8",
        "odd": "int8",
        "back": "int8",
        "tiny": "fp32",
        "tiny_back": "fp32",
        "head": "int8-weight-only",
    }
    assert weights["head"].reason == "the head decides between near tokens; its input stays float"
    activation = weights["up"].activation
    assert activation is not None
    assert 30 < (activation.signal_to_noise_db or 0) < 45
    assert activation.clipped_share < 0.01
    assert summary.worst_signal_to_noise_db == min(
        weight.activation.signal_to_noise_db  # type: ignore[type-var]
        for weight in summary.weights
        if weight.activation
    )


def test_an_activation_that_8_bits_would_spoil_stays_float(make_decoder: MakeDecoder) -> None:
    source = make_decoder()
    observers = observe(source, _feeds())
    _, strict = quantize(source, "int8", observers=observers, options=LayerOptions(min_snr_db=99))
    assert {weight.reason for weight in strict.weights if weight.node == "down"} == {
        "8 bits would leave its input under 99 dB"
    }
    _, free = quantize(source, "int8", observers=observers, options=LayerOptions(min_snr_db=0))
    assert free.weights[0].precision == "int8"


def test_an_activation_never_seen_stays_float(make_decoder: MakeDecoder) -> None:
    source = make_decoder()
    observers = observe(source, _feeds())
    del observers[NAME]
    _, summary = quantize(source, "int8", observers=observers)
    assert summary.weights[0].precision == "int8-weight-only"
    assert summary.weights[0].reason == "the calibration data never reached it"


def test_observe_gathers_over_all_feeds(make_decoder: MakeDecoder) -> None:
    source = make_decoder()
    observers = observe(source, iter(_feeds()), gram=True)
    stacked = np.concatenate([feed[NAME] for feed in _feeds()])
    assert observers[NAME].largest == np.abs(stacked).max()
    active = np.tanh(stacked @ _weights(make_decoder)["up.weight"])
    # Float32 against float64 products.
    np.testing.assert_allclose(
        observers["active"].channel_max, np.abs(active).max(axis=0), rtol=1e-4
    )
    np.testing.assert_allclose(observers["active"].gram, active.T @ active, atol=1e-3)
    assert "flat" not in observers


def test_bad_requests_are_refused(make_decoder: MakeDecoder) -> None:
    source = make_decoder()
    with pytest.raises(UnsupportedError, match="int8 needs statistics: give observers="):
        quantize(source, "int8")
    with pytest.raises(DataError, match="no feed was given to calibrate with; give at least one"):
        observe(source, [])
    bad = {NAME: np.full((1, 64), np.inf, np.float32)}
    with pytest.raises(DataError, match="feed 1: the float graph gives a NaN or an infinity"):
        observe(source, [bad])
    with pytest.raises(UnsupportedError, match="the graph has opset 20"):
        quantize(make_decoder(opset=20), "int8", observers={})
