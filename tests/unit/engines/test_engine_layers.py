"""The layers that TensorRT reads carry the types of the precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from moir_edge.calibration import quantize
from moir_edge.calibration.gpu_form import to_gpu_form
from moir_edge.engines.layers import count_layers, network_layers
from moir_edge.errors import UnsupportedError
from moir_edge.graphs.half import to_half

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (extra `rtx`)")


def _model() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[batch, 64] x) => (float[batch, 64] y) '
        "{ m = MatMul (x, w) y = Softmax (m) }"
    )
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return onnx.shape_inference.infer_shapes(proto)


def _written(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "decoder.onnx")
    return folder / "decoder.onnx"


def test_a_float_graph(tmp_path: Path) -> None:
    layers = network_layers(trt, _written(_model(), tmp_path))
    product = next(layer for layer in layers if layer.kind == "MATRIX_MULTIPLY")
    assert (product.inputs, product.output) == (("FLOAT", "FLOAT"), "FLOAT")
    assert product.shape == (-1, 64)
    assert {"SOFTMAX", "MATRIX_MULTIPLY"} <= {layer.kind for layer in layers if layer.computes}
    assert not any(layer.computes for layer in layers if layer.kind == "CONSTANT")


@pytest.mark.parametrize(("precision", "stored"), [("fp16", None), ("int4", "INT4")])
def test_products_are_strongly_typed_in_half(
    tmp_path: Path, precision: str, stored: str | None
) -> None:
    converted = _model() if stored is None else quantize(_model(), "int4")[0]
    model = ir.from_proto(converted)
    (to_half if stored is None else to_gpu_form)(model)
    layers = network_layers(trt, _written(ir.to_proto(model), tmp_path))
    by_kind = {layer.kind: layer for layer in layers}
    assert by_kind["MATRIX_MULTIPLY"].inputs == ("HALF", "HALF")
    assert by_kind["SOFTMAX"].output == "FLOAT"
    if stored:
        assert by_kind["DEQUANTIZE"].inputs == (stored, "HALF")


def test_counts(tmp_path: Path) -> None:
    layers = network_layers(trt, _written(_model(), tmp_path))
    counts = count_layers(layers)
    assert sum(number for *_, number in counts) == len(layers)
    assert ("MATRIX_MULTIPLY", "FLOAT, FLOAT", "FLOAT", 1) in counts


def test_no_graph_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "decoder.onnx").write_bytes(b"no graph")
    with pytest.raises(UnsupportedError, match="TensorRT-RTX cannot") as error:
        network_layers(trt, tmp_path / "decoder.onnx")
    assert "\n" not in str(error.value)
