"""Quantizing takes memory for one weight at a time, besides the narrow numbers."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from moir_edge.calibration.layers import LayerOptions, quantize_layers
from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.smoothing import smooth
from moir_edge.calibration.taps import find_activations

WIDTH, LAYERS = 256, 24
WEIGHT = 4 * WIDTH * WIDTH


def _weight(at: int) -> ir.Tensor:
    array = np.random.default_rng(at).standard_normal((WIDTH, WIDTH), np.float32)
    return ir.Tensor(array, name=f"w{at}")


def _model() -> ir.Model:
    """Return norms and matrix products in turn, whose weights are made when they are asked for."""
    nodes, constants = [], []
    for at in range(LAYERS):
        scale = onnx.numpy_helper.from_array(np.ones(WIDTH, np.float32), f"s{at}")
        constants += [
            scale,
            onnx.numpy_helper.from_array(np.zeros((WIDTH, WIDTH), np.float32), f"w{at}"),
        ]
        nodes += [
            onnx.helper.make_node("LayerNormalization", [f"x{at}", f"s{at}"], [f"n{at}"]),
            onnx.helper.make_node(
                "MatMul", [f"n{at}", f"w{at}"], [f"x{at + 1}"], name=f"layer{at}"
            ),
        ]
    ends = [
        onnx.helper.make_tensor_value_info(f"x{at}", onnx.TensorProto.FLOAT, ["rows", WIDTH])
        for at in (0, LAYERS)
    ]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    opset = onnx.helper.make_opsetid("", 21)
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=[opset]))
    for at in range(LAYERS):
        value = model.graph.initializers[f"w{at}"]
        value.const_value = ir.LazyTensor(
            lambda at=at: _weight(at), dtype=ir.DataType.FLOAT, shape=ir.Shape((WIDTH, WIDTH))
        )
    return model


def _observers(model: ir.Model) -> dict[str, ActivationObserver]:
    random = np.random.default_rng(3)
    found = {}
    for name in find_activations(model.graph):
        found[name] = ActivationObserver(WIDTH)
        found[name].update(random.standard_normal((64, WIDTH)) * random.lognormal(size=WIDTH))
    return found


@pytest.mark.parametrize("method", ["rtn", "hqq", "awq"])
def test_int4_holds_half_a_byte_for_each_weight(method: str) -> None:
    model = _model()
    observers = _observers(model)
    options = LayerOptions(int4_method=method)
    quantize_layers(_model(), "int4", options=options, observers=observers)  # imports
    tracemalloc.start()
    summary = quantize_layers(model, "int4", options=options, observers=observers)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {one.precision for one in summary.weights} == {"int4"}
    # Half a byte of the four of a float, and 4 or 5 bytes of scale and zero point for 32 weights.
    narrow = LAYERS * WEIGHT * (1 / 8 + 5 / 128)
    assert kept < 1.2 * narrow
    # A search holds some copies of one weight.
    assert most < kept + 12 * WEIGHT


def test_smoothing_keeps_no_scaled_weight() -> None:
    model = _model()
    observers = _observers(model)
    tracemalloc.start()
    chosen = smooth(model, observers, alpha=0.5)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(chosen) == LAYERS
    assert kept < WEIGHT
    scaled = model.graph.initializers["w0"].const_value
    assert scaled is not None
    assert not np.array_equal(scaled.numpy(), _weight(0).numpy())
    np.testing.assert_array_equal(scaled.numpy(), scaled.numpy())
