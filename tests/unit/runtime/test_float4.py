from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from moir_edge.errors import EnvironmentProblem
from moir_edge.runtime.float4 import session_source, widen_float4


def _graph(folder: Path, kind: type = np.float32) -> tuple[Path, np.ndarray]:
    """A MatMul by a (32, 4) weight in blocks of 16; return its file and the weight."""
    random = np.random.default_rng(3)
    codes = random.integers(0, 16, (32, 4)).astype(np.uint8)
    # the sixteen numbers of E2M1 by their code, sign first
    numbers = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = np.where(codes < 8, 1, -1) * numbers[codes % 8]
    flat = codes.reshape(-1)
    # powers of two: exponent biased by 7 in bits 3 to 6
    scale_codes = random.integers(3, 12, (2, 4)).astype(np.uint8)
    scales, outer = 2.0 ** (scale_codes.astype(int) - 7), 0.25
    initializers = [
        helper.make_tensor(
            "w", TensorProto.FLOAT4E2M1, (32, 4), (flat[0::2] | flat[1::2] << 4).tobytes(), raw=True
        ),
        helper.make_tensor(
            "s", TensorProto.FLOAT8E4M3FN, (2, 4), (scale_codes << 3).tobytes(), raw=True
        ),
        numpy_helper.from_array(np.array(outer, kind), "outer"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["s", "outer"], ["wide_s"]),
        helper.make_node("DequantizeLinear", ["w", "wide_s"], ["wide"], axis=0, block_size=16),
        helper.make_node("MatMul", ["x", "wide"], ["y"]),
    ]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", element, ["n", 32])],
        [helper.make_tensor_value_info("y", element, ["n", 4])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.save(model, folder / "decoder.onnx")
    return folder / "decoder.onnx", values * np.repeat(scales, 16, axis=0) * outer


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_widened_weights_are_exact(tmp_path: Path, kind: type) -> None:
    path, weight = _graph(tmp_path, kind)
    before = path.read_bytes()
    model = onnx.load_from_string(widen_float4(path))
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    (tensor,) = model.graph.initializer
    stored = numpy_helper.to_array(tensor)
    assert stored.dtype == kind
    np.testing.assert_array_equal(stored, weight.astype(kind))
    assert path.read_bytes() == before


def test_onnx_runtime_runs_what_comes_out(tmp_path: Path) -> None:
    path, weight = _graph(tmp_path)
    source = session_source(path, "nvfp4")
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    # float32 sums of 32 terms
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ weight, rtol=1e-4, atol=1e-4)


def test_other_precisions_are_opened_as_they_are(tmp_path: Path) -> None:
    assert session_source(tmp_path / "decoder.onnx", "fp8") == str(tmp_path / "decoder.onnx")


def test_without_onnx_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = _graph(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"needs the package 'onnx'.*moir-edge\[export\]"):
        session_source(path, "nvfp4")
