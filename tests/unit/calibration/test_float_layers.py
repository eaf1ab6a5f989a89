"""fp8 and nvfp4 graphs: their form, and that ONNX Runtime computes what the numbers written by hand give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from moir_edge.calibration import LayerOptions, QuantizationSummary, observe, quantize
from moir_edge.errors import UnsupportedError
from moir_edge.runtime.float4 import session_source
from moir_edge.targets import session_config

MakeDecoder = Callable[..., onnx.ModelProto]
NAME = "inputs_embeds"


def _feeds(count: int = 3) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(11)
    return [{NAME: random.standard_normal((5, 64)).astype(np.float32)} for _ in range(count)]


def _fp8(source: onnx.ModelProto, **options: float) -> tuple[onnx.ModelProto, QuantizationSummary]:
    chosen = LayerOptions(method="minmax", **options)  # type: ignore[arg-type]
    return quantize(source, "fp8", observers=observe(source, _feeds()), options=chosen)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def _weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    tensors = model.graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in tensors}


def _e4m3(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """Round one value at a time, as `QuantizeLinear` and `DequantizeLinear` are defined."""
    inside = np.clip(values / scale, -448, 448)
    return inside.astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale


def _run(path: Path, precision: str, feed: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for key, value in session_config("decoder", precision, onnxruntime.__version__).items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(
        session_source(path, precision), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, feed)[0])


def _by_hand(
    model: onnx.ModelProto, x: np.ndarray, rounded: Callable[[str, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Compute the test decoder with its own float weights, `rounded` where a layer rounds."""
    w = _weights(model)

    def product(name: str, values: np.ndarray) -> np.ndarray:
        return rounded(name, values) @ rounded(f"{name}.weight", w[f"{name}.weight"])

    wide = np.tanh(product("up", x))
    odd = product("odd", product("down", wide))
    hidden = product("back", odd) + w["back.bias"]
    hidden = hidden @ w["tiny.weight"] @ w["tiny_back.weight"]
    head = w["embed"].T
    step = _weights_of_head(head)
    return (hidden @ (np.rint(head / step) * step))[:, None]


def _weights_of_head(head: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(head).max(axis=0) / 127)


def test_fp8_is_qdq_of_e4m3_on_both_sides(make_decoder: MakeDecoder) -> None:
    model, summary = _fp8(make_decoder())
    types = _types(model)
    assert {types[f"{name}.weight_float8e4m3fn"] for name in ("up", "down", "odd", "back")} == {
        TensorProto.FLOAT8E4M3FN
    }
    assert model.opset_import[0].version == 21
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = next(t for t in model.graph.initializer if t.name == node.input[2])
            assert zero.data_type == TensorProto.FLOAT8E4M3FN
            assert float(numpy_helper.to_array(zero)) == 0
    precisions = {weight.node: weight.precision for weight in summary.weights}
    assert [precisions[n] for n in ("up", "down", "odd", "back")] == ["fp8"] * 4
    assert precisions["head"] == "int8-weight-only"
    onnx.checker.check_model(model)


def test_fp8_in_onnx_runtime_is_what_the_hand_computes(
    make_decoder: MakeDecoder, tmp_path: Path
) -> None:
    source = make_decoder()
    model, summary = _fp8(source)
    onnx.save(model, tmp_path / "decoder.onnx")
    feed = _feeds()[0]
    scales = {w.node: w.activation.scale for w in summary.weights if w.activation}

    def rounded(name: str, values: np.ndarray) -> np.ndarray:
        if name.endswith(".weight"):
            scale = (np.abs(values).max(axis=0) / 448).astype(np.float32)
            return _e4m3(values, scale.astype(np.float64))
        return _e4m3(values, scales[name])

    got = _run(tmp_path / "decoder.onnx", "fp8", feed)
    expected = _by_hand(source, feed[NAME].astype(np.float64), rounded)
    # The head's scales are searched for, by hand they are not: 1 % of its INT8 step. A value at the border between
    # two floats may fall to either side in float32.
    assert np.linalg.norm(got - expected) < 0.02 * np.linalg.norm(expected)
    exact = _by_hand(source, feed[NAME].astype(np.float64), lambda _, values: values)
    assert np.linalg.norm(exact - expected) > 0.03 * np.linalg.norm(expected)


def test_fp8_reports_every_layer(make_decoder: MakeDecoder) -> None:
    _, summary = _fp8(make_decoder())
    entry = next(weight for weight in summary.weights if weight.node == "up")
    assert entry.activation is not None
    largest = max(np.abs(feed[NAME]).max() for feed in _feeds())
    assert entry.activation.scale == pytest.approx(largest / 448)
    assert entry.activation.clipped_share == 0
    # Uniform rounding with three bits of mantissa: 12 · 4^3 at the lower end of an octave, four times that at the upper.
    assert entry.activation.signal_to_noise_db is not None
    assert 28.8 < entry.activation.signal_to_noise_db < 34.9


def test_fp8_falls_back_where_its_signal_would_be_too_weak(make_decoder: MakeDecoder) -> None:
    _, summary = _fp8(make_decoder(), min_snr_db=45)
    entry = next(weight for weight in summary.weights if weight.node == "up")
    assert (entry.precision, entry.activation) == ("int8-weight-only", None)
    assert entry.reason == "8 bits would leave its input under 40 dB"


def test_fp8_without_statistics_is_refused(make_decoder: MakeDecoder) -> None:
    with pytest.raises(UnsupportedError, match="fp8 needs statistics"):
        quantize(make_decoder(), "fp8")


def test_int8_and_fp8_layers_can_share_an_activation(
    make_decoder: MakeDecoder, tmp_path: Path
) -> None:
    source = make_decoder()
    twin = source.graph.node.add()
    twin.CopyFrom(source.graph.node[0])
    twin.name, twin.output[0] = "twin", "twin_out"
    source.graph.output.append(onnx.helper.make_tensor_value_info("twin_out", 1, ["batch", 128]))
    options = LayerOptions(precisions={"twin": "int8"})
    model, _ = quantize(source, "fp8", observers=observe(source, _feeds()), options=options)
    reads = {node.name: node.input[0] for node in model.graph.node if node.op_type == "MatMul"}
    assert reads["up"] != reads["twin"]
    onnx.save(model, tmp_path / "decoder.onnx")
    assert np.isfinite(_run(tmp_path / "decoder.onnx", "fp8", _feeds()[0])).all()


def test_nvfp4_stores_blocks_with_scales_of_their_own(make_decoder: MakeDecoder) -> None:
    model, summary = quantize(make_decoder(), "nvfp4")
    types, weights = _types(model), _weights(model)
    assert types["up.weight_float4e2m1"] == TensorProto.FLOAT4E2M1
    assert types["up.weight_scale"] == TensorProto.FLOAT8E4M3FN
    assert weights["up.weight_scale"].shape == (64 // 16, 128)
    assert weights["up.weight_outer_scale"].shape == ()
    assert (model.opset_import[0].version, model.ir_version) == (23, 11)
    assert summary.block_size == 16
    entries = {weight.node: weight for weight in summary.weights}
    assert entries["up"].precision == "nvfp4"
    assert entries["back"].precision == "int8-weight-only"
    assert entries["back"].reason == "K = 40 is not a multiple of the block size 16"
    # packed: two weights to a byte
    tensor = next(t for t in model.graph.initializer if t.name == "up.weight_float4e2m1")
    assert len(tensor.raw_data) == 64 * 128 / 2
    onnx.checker.check_model(model)


def test_nvfp4_in_onnx_runtime_is_what_the_hand_computes(
    make_decoder: MakeDecoder, tmp_path: Path
) -> None:
    source = make_decoder()
    model, _ = quantize(source, "nvfp4")
    stored, feed = _weights(model), _feeds()[0]
    # this moves the weights out of the model
    onnx.save(model, tmp_path / "decoder.onnx", save_as_external_data=True, size_threshold=64)

    def rounded(name: str, values: np.ndarray) -> np.ndarray:
        if f"{name}_float4e2m1" not in stored:
            if not name.endswith(".weight"):
                return values
            step = np.abs(values).max(axis=0) / 127
            return np.asarray(np.rint(values / step) * step)
        narrow = stored[f"{name}_float4e2m1"].copy()
        for row in range(len(narrow)):
            narrow[row] *= stored[f"{name}_scale"][row // 16] * stored[f"{name}_outer_scale"]
        return narrow

    got = _run(tmp_path / "decoder.onnx", "nvfp4", feed)
    expected = _by_hand(source, feed[NAME].astype(np.float64), rounded)
    # INT8 scales are searched for, by hand they are not.
    assert np.linalg.norm(got - expected) < 0.01 * np.linalg.norm(expected)
    exact = _by_hand(source, feed[NAME].astype(np.float64), lambda _, values: values)
    assert np.linalg.norm(exact - expected) > 0.05 * np.linalg.norm(expected)


def test_what_exported_graphs_hold_means_the_same_in_both_opsets() -> None:
    """Between 21 and 23 these operators only took further types: same inputs, attributes and defaults."""
    operators = [
        "Add",
        "And",
        "Cast",
        "Concat",
        "Constant",
        "Conv",
        "Cos",
        "DequantizeLinear",
        "Div",
        "Equal",
        "Expand",
        "Gather",
        "Gelu",
        "Gemm",
        "Greater",
        "LayerNormalization",
        "LessOrEqual",
        "MatMul",
        "Mul",
        "Neg",
        "Pow",
        "QuantizeLinear",
        "Range",
        "ReduceMean",
        "Reshape",
        "Shape",
        "Sigmoid",
        "Sin",
        "Slice",
        "Softmax",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
    for name in operators:
        old, new = (onnx.defs.get_schema(name, opset) for opset in (21, 23))
        assert [one.name for one in old.inputs] == [one.name for one in new.inputs], name
        defaults = [
            {
                key: value.default_value.SerializeToString()
                for key, value in schema.attributes.items()
            }
            for schema in (old, new)
        ]
        assert defaults[0].items() <= defaults[1].items(), name
        added = set(defaults[1]) - set(defaults[0])
        # further attributes, whose defaults are what there was
        assert added <= {"output_dtype", "precision"}, name
