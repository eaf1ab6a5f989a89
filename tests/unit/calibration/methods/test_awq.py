from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from moir_edge.calibration import ActivationObserver, LayerOptions, PerBlock, observe, quantize
from moir_edge.calibration.methods.awq import ALPHAS, AwqQuantizer, Migration, migrate
from moir_edge.calibration.methods.moments import InputMoments
from moir_edge.calibration.scales import quantize_array

HIDDEN, WIDE = 64, 96
BLOCK = PerBlock(block_size=32)
# Channels of unequal size are what AWQ is for.
SPREAD = np.geomspace(0.05, 20, HIDDEN).astype(np.float32)[
    np.random.default_rng(0).permutation(HIDDEN)
]


def _weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(4)
    return {
        "norm": SPREAD,
        "up": (random.standard_normal((HIDDEN, WIDE)) / 8).astype(np.float32),
        "side": (random.standard_normal((HIDDEN, WIDE)) / 4).astype(np.float32),
        "down": (random.standard_normal((WIDE, HIDDEN)) / 8).astype(np.float32),
    }


@pytest.fixture
def model() -> onnx.ModelProto:
    """A normalisation that two weights read, and a third one behind a Tanh, which nothing can be folded into."""
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("LayerNormalization", ["x", "norm"], ["n"], name="norm"),
            node("MatMul", ["n", "up"], ["u"], name="up"),
            node("MatMul", ["n", "side"], ["v"], name="side"),
            node("Add", ["u", "v"], ["sum"], name="sum"),
            node("Tanh", ["sum"], ["t"], name="tanh"),
            node("MatMul", ["t", "down"], ["y"], name="down"),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", HIDDEN])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", HIDDEN])],
        [numpy_helper.from_array(array, name) for name, array in _weights().items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(proto)


def _feeds() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(9)
    return [{"x": random.standard_normal((100, HIDDEN)).astype(np.float32)} for _ in range(3)]


def _run(proto: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    output: np.ndarray = session.run(None, _feeds()[0])[0]
    return output


def _migrated(
    proto: onnx.ModelProto, observers: Mapping[str, ActivationObserver]
) -> tuple[onnx.ModelProto, dict[str, Migration]]:
    graph = ir.from_proto(proto)
    moments = {name: InputMoments.of(observer) for name, observer in observers.items()}
    found = migrate(graph.graph, moments.get, lambda use: BLOCK)
    return ir.to_proto(graph), found


def _normalised_inputs() -> np.ndarray:
    x = np.concatenate([feed["x"] for feed in _feeds()]).astype(np.float64)
    normed = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    result: np.ndarray = normed * SPREAD
    return result


def _factors_by_hand(alpha: float) -> np.ndarray:
    """s = rms(x)^α, over its geometric mean."""
    size = np.sqrt(np.square(_normalised_inputs()).mean(axis=0)) ** alpha
    result: np.ndarray = size / np.exp(np.log(size).mean())
    return result


def _error_by_hand(alpha: float) -> float:
    """‖x W − (x / s) Q(s W)‖² over the inputs themselves and both weights."""
    inputs, factors = _normalised_inputs(), _factors_by_hand(alpha)
    error = 0.0
    for name in ("up", "side"):
        weight = _weights()[name]
        array = quantize_array(
            (weight * factors[:, None]).astype(np.float32),
            BLOCK,
            4,
            importance=np.square(inputs / factors).mean(axis=0),
        )
        got = (inputs / factors) @ array.dequantized().astype(np.float64)
        error += float(np.square(got - inputs @ weight).sum())
    return error


def test_the_graph_computes_what_it_did(model: onnx.ModelProto) -> None:
    migrated, found = _migrated(model, observe(model, _feeds(), gram=True))
    assert set(found) == {"n"}
    onnx.checker.check_model(migrated, full_check=True)
    expected = _run(model)
    # Float32 products in another order of magnitude.
    np.testing.assert_allclose(_run(migrated), expected, atol=1e-5 * np.abs(expected).max())


def test_factors_and_exponent_are_those_by_hand(model: onnx.ModelProto) -> None:
    migrated, found = _migrated(model, observe(model, _feeds(), gram=True))
    errors = {alpha: _error_by_hand(alpha) for alpha in (0.0, *ALPHAS)}
    assert found["n"].alpha == min(errors, key=lambda alpha: errors[alpha])
    tensors = {t.name: numpy_helper.to_array(t) for t in migrated.graph.initializer}
    factors = _factors_by_hand(found["n"].alpha)
    # Float32 sums of squares against float64.
    np.testing.assert_allclose(found["n"].factors, factors, rtol=1e-4)
    np.testing.assert_allclose(SPREAD / tensors["norm"], factors, rtol=1e-4)
    np.testing.assert_allclose(
        tensors["up"], _weights()["up"] * found["n"].factors[:, None], rtol=1e-6
    )
    np.testing.assert_array_equal(tensors["down"], _weights()["down"])


def test_output_error_is_below_round_to_nearest(model: onnx.ModelProto) -> None:
    observers = observe(model, _feeds(), gram=True)
    errors = {}
    for method in ("rtn", "awq"):
        options = LayerOptions(int4_method=method)
        quantized, summary = quantize(model, "int4", observers=observers, options=options)
        errors[method] = float(np.square(_run(quantized) - _run(model)).sum())
        assert {weight.method for weight in summary.weights} == {method}
    assert errors["awq"] < 0.8 * errors["rtn"]


def test_the_diagonal_alone_serves_too(model: onnx.ModelProto) -> None:
    _, found = _migrated(model, observe(model, _feeds()))
    assert found["n"].alpha in ALPHAS


def test_size_of_the_activation_changes_nothing(model: onnx.ModelProto) -> None:
    observers = observe(model, _feeds(), gram=True)
    _, plain = _migrated(model, observers)
    for observer in observers.values():
        observer.channel_square *= 1e12
        if observer.gram is not None:
            observer.gram *= 1e12
    _, scaled = _migrated(model, observers)
    assert plain["n"].alpha == scaled["n"].alpha
    np.testing.assert_allclose(plain["n"].factors, scaled["n"].factors, rtol=1e-5)


def test_dead_and_huge_channels_keep_numbers_finite(model: onnx.ModelProto) -> None:
    observers = observe(model, _feeds(), gram=True)
    gram = observers["n"].gram
    assert gram is not None
    for channel, factor in ((5, 0.0), (9, 1e15)):
        gram[channel] *= factor
        gram[:, channel] *= factor
    observers["n"].channel_square = np.diagonal(gram).copy()
    migrated, found = _migrated(model, observers)
    assert found["n"].factors[5] == 1
    assert np.isfinite(found["n"].factors).all()
    assert all(np.isfinite(numpy_helper.to_array(t)).all() for t in migrated.graph.initializer)


def test_a_layer_that_becomes_something_else_is_left(model: onnx.ModelProto) -> None:
    observers = observe(model, _feeds(), gram=True)
    options = LayerOptions(int4_method="awq", precisions={"side": "int8-weight-only"})
    _, summary = quantize(model, "int4", observers=observers, options=options)
    assert {weight.node: weight.migration for weight in summary.weights} == {
        "up": None,
        "side": None,
        "down": None,
    }


def test_what_stands_in_the_way_is_said() -> None:
    assert AwqQuantizer.obstacle(InputMoments(second_moment=np.ones(3))) == ""
    assert "always zero" in AwqQuantizer.obstacle(InputMoments(second_moment=np.zeros(3)))
    assert "past the range" in AwqQuantizer.obstacle(
        InputMoments(second_moment=np.array([1, np.inf]))
    )
