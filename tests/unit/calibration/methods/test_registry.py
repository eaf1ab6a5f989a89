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

from moir_edge.calibration import (
    ActivationObserver,
    LayerOptions,
    QuantizationSummary,
    observe,
    quantize,
)
from moir_edge.calibration.methods.registry import METHODS, default_method, get_method
from moir_edge.calibration.rewriting import require_symmetric
from moir_edge.errors import UnsupportedError
from moir_edge.targets import session_config

MakeDecoder = Callable[..., onnx.ModelProto]


def _inputs() -> dict[str, np.ndarray]:
    array = np.random.default_rng(11).standard_normal((40, 64)).astype(np.float32)
    return {"inputs_embeds": array}


def _quantized(
    model: onnx.ModelProto, method: str, *, gram: bool = True
) -> tuple[onnx.ModelProto, QuantizationSummary]:
    observers = observe(model, [_inputs()], gram=gram)
    return quantize(model, "int4", observers=observers, options=LayerOptions(int4_method=method))


def _session(model: onnx.ModelProto, path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3  # it warns that the optimized file is for this machine
    for key, value in session_config("decoder", "int4", onnxruntime.__version__).items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("method", METHODS)
def test_onnx_runtime_fuses_every_weight_of_every_method(
    make_decoder: MakeDecoder, method: str, tmp_path: Path
) -> None:
    model, summary = _quantized(make_decoder(), method)
    onnx.checker.check_model(model, full_check=True)
    fused = _session(model, tmp_path / "optimized.onnx").run(None, _inputs())[0]
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert operators["MatMulNBits"] == len(summary.quantized)
    assert operators["DequantizeLinear"] == 0
    plain = ReferenceEvaluator(model).run(None, _inputs())[0]
    # The fused kernel rounds activations to 8 bits, per block of rows.
    assert np.linalg.norm(fused - plain) < 0.03 * np.linalg.norm(plain)


@pytest.mark.parametrize("method", METHODS)
def test_each_layer_is_reported(make_decoder: MakeDecoder, method: str) -> None:
    model, summary = _quantized(make_decoder(), method)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    # Where Σ x xᵀ was gathered, weights that fall back to 8 bits take their errors back too.
    assert summary.method == f"weights only, int4 by {method}, int8 by gptq"
    for weight in summary.quantized:
        eight = "rtn" if weight.node == "head" else "gptq"
        assert weight.method == (method if weight.precision == "int4" else eight)
        assert weight.scales is not None
        scale = tensors[f"{weight.weight}_scale"]
        assert weight.scales.scale == (scale.min(), np.median(scale), scale.max())
        assert 0 <= weight.scales.clipped_share < 0.1
        assert weight.scales.signal_to_noise_db == pytest.approx(
            -20 * np.log10(weight.relative_error)
        )
    record = summary.to_dict()["weights"]
    figures = {"method", "scale", "clipped_share", "signal_to_noise_db"}
    assert all(figures <= one.keys() for one in record if one["precision"] == "int4")


def test_data_lower_the_error_of_the_output(make_decoder: MakeDecoder) -> None:
    noise = {}
    for method in ("rtn", "awq", "gptq"):
        _, summary = _quantized(make_decoder(), method)
        layers = [one.scales for one in summary.weights if one.precision == "int4" and one.scales]
        noise[method] = [one.output_signal_to_noise_db or 0 for one in layers]
        assert len(layers) == 3
    assert all(ours > plain for ours, plain in zip(noise["gptq"], noise["rtn"], strict=True))
    # AWQ weighs errors by the diagonal alone: on average over the layers it gains.
    assert sum(noise["awq"]) > sum(noise["rtn"])


def test_data_lower_the_error_of_the_output_in_eight_bits_too(make_decoder: MakeDecoder) -> None:
    source = make_decoder()
    random = np.random.default_rng(2)
    # Correlated inputs, as activations are: the errors of one row can be made up for by others.
    mixing = random.standard_normal((8, 64)).astype(np.float32)
    feeds = [
        {"inputs_embeds": random.standard_normal((40, 8)).astype(np.float32) @ mixing}
        for _ in range(4)
    ]
    noise = {}
    for gram in (False, True):
        observers = observe(source, feeds, gram=gram)
        _, plain = quantize(source, "int8-weight-only", observers=observers)
        noise[gram] = next(one for one in plain.weights if one.node == "up")
    assert (noise[False].method, noise[True].method) == ("rtn", "gptq")
    fed_back, _ = quantize(source, "int8-weight-only", observers=observe(source, feeds, gram=True))
    rounded, _ = quantize(source, "int8-weight-only")
    errors = []
    for model in (rounded, fed_back):
        tensors = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        weight = tensors["up.weight_int8"] * tensors["up.weight_scale"]
        float_weight = next(
            numpy_helper.to_array(one)
            for one in source.graph.initializer
            if one.name == "up.weight"
        )
        x = np.concatenate([feed["inputs_embeds"] for feed in feeds])
        errors.append(float(np.linalg.norm(x @ (weight - float_weight))))
    assert errors[1] < errors[0] / 2


def test_zero_points_are_stored_unsigned(make_decoder: MakeDecoder) -> None:
    model, _ = _quantized(make_decoder(), "hqq")
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types["up.weight_int4"] == types["up.weight_zero"] == TensorProto.UINT4
    assert types["back.weight_int8"] == TensorProto.INT8
    with pytest.raises(
        UnsupportedError, match=r"zero points, as `settings\.int4_method='hqq'` makes them"
    ):
        require_symmetric(ir.from_proto(model).graph)
    require_symmetric(ir.from_proto(_quantized(make_decoder(), "gptq")[0]).graph)


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].needs_data])
def test_without_data_a_layer_is_rounded_to_nearest_and_says_so(
    make_decoder: MakeDecoder, method: str
) -> None:
    options = LayerOptions(int4_method=method)
    model, summary = quantize(make_decoder(), "int4", options=options)
    plain, _ = quantize(make_decoder(), "int4")
    up = next(weight for weight in summary.weights if weight.node == "up")
    assert up.method == "rtn"
    assert up.reason == f"{method}: the calibration data never reached its input"
    assert model.SerializeToString() == plain.SerializeToString()


def test_what_the_data_do_not_serve_falls_back_layer_by_layer(make_decoder: MakeDecoder) -> None:
    model = make_decoder()
    observers = observe(model, [_inputs()], gram=True)
    observers["active"] = ActivationObserver(128, gram=True)
    gram = observers["narrow"].gram
    assert gram is not None
    gram[0, 0] = np.inf
    options = LayerOptions(int4_method="gptq")
    _, summary = quantize(model, "int4", observers=observers, options=options)
    found = {weight.node: (weight.method, weight.reason) for weight in summary.weights}
    assert found["up"] == ("gptq", "")
    assert found["down"] == ("rtn", "gptq: the calibration data never reached its input")
    assert found["odd"] == ("rtn", "gptq: Σ x xᵀ of its input is past the range of float32")


def test_without_the_gram_matrix_gptq_says_so(make_decoder: MakeDecoder) -> None:
    _, summary = _quantized(make_decoder(), "gptq", gram=False)
    assert summary.weights[0].reason == "gptq: Σ x xᵀ of its 64 input channels was not gathered"


@pytest.mark.parametrize("method", METHODS)
def test_the_same_twice(make_decoder: MakeDecoder, method: str) -> None:
    first, second = (
        _quantized(make_decoder(), method)[0].SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert first == second


def test_names() -> None:
    with pytest.raises(UnsupportedError, match="unknown int4 method 'gtpq': did you mean 'gptq'"):
        get_method("gtpq")
    with pytest.raises(UnsupportedError, match="unknown int4 method"):
        LayerOptions(int4_method="best")
    assert not METHODS[default_method(has_data=False)].needs_data
    assert METHODS[default_method(has_data=True)].needs_data
