"""Weights in half the bytes: what is stored, what is computed, and what ONNX Runtime makes of it as it loads a graph."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from moir_edge.calibration.narrow_storage import store_narrow
from moir_edge.errors import UnsupportedError
from moir_edge.graphs.half import to_half
from moir_edge.graphs.sessions import cpu_session
from moir_edge.graphs.writing import write_graphs

MakeDecoder = Callable[..., onnx.ModelProto]
TYPES = {"FLOAT16": np.float16, "BFLOAT16": ml_dtypes.bfloat16}
FEED = {"inputs_embeds": np.random.default_rng(11).standard_normal((3, 64)).astype(np.float32)}


def _narrow(source: onnx.ModelProto, storage: str) -> ir.Model:
    model = ir.from_proto(source)
    store_narrow(model, ir.DataType[storage])
    return model


def _rounded(source: onnx.ModelProto, storage: str, least: int = 1024) -> onnx.ModelProto:
    """Return the float32 model whose weights were rounded by numpy."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 2 and array.size >= least:
            wide = array.astype(TYPES[storage]).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    return model


def _types(model: ir.Model) -> Counter[str]:
    return Counter(
        tensor.dtype.name
        for value in model.graph.initializers.values()
        if (tensor := value.const_value) is not None
    )


@pytest.mark.parametrize("storage", TYPES)
def test_a_graph_computes_what_the_rounded_weights_give(
    make_decoder: MakeDecoder, storage: str
) -> None:
    source = make_decoder()
    model = _narrow(source, storage)
    before, after = _types(ir.from_proto(source)), _types(model)
    assert after[storage] > 3
    assert after["FLOAT"] + after[storage] == before["FLOAT"]
    expected = cpu_session(_rounded(source, storage).SerializeToString()).run(None, FEED)
    got = cpu_session(model).run(None, FEED)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)
    onnx.checker.check_model(ir.to_proto(model))


@pytest.mark.parametrize("storage", TYPES)
def test_onnx_runtime_widens_the_weights_once_as_it_loads_them(
    make_decoder: MakeDecoder, storage: str, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    content = ir.to_proto(_narrow(make_decoder(), storage)).SerializeToString()
    assert b"Cast" in content
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(options.optimized_model_filepath)
    assert "Cast" not in {node.op_type for node in loaded.graph.node}


@pytest.mark.parametrize("storage", TYPES)
def test_rows_of_a_table_are_widened_after_the_look_up(
    embedding_model: onnx.ModelProto, table: np.ndarray, storage: str, tmp_path: Path
) -> None:
    model = _narrow(embedding_model, storage)
    assert [node.op_type for node in model.graph] == ["Gather", "Cast"]
    ids = np.array([[3, 95, 0], [1, 1, 7]])
    (rows,) = cpu_session(model).run(None, {"input_ids": ids})
    np.testing.assert_array_equal(rows, table.astype(TYPES[storage]).astype(np.float32)[ids])
    assert [value.name for value in model.graph.outputs] == ["inputs_embeds"]
    # Half of the table's bytes on disk.
    written = write_graphs({"embedding": model}, tmp_path)["embedding"]
    assert (tmp_path / "embedding.data").stat().st_size == table.nbytes // 2
    assert written.tensor_bytes == table.nbytes // 2


def test_a_table_that_embedding_and_head_share_lies_on_disk_once(
    embedding_model: onnx.ModelProto, make_decoder: MakeDecoder, tmp_path: Path
) -> None:
    models = {
        "embedding": _narrow(embedding_model, "BFLOAT16"),
        "decoder": _narrow(make_decoder(), "BFLOAT16"),
    }
    written = write_graphs(models, tmp_path)
    assert "embedding.data" in written["decoder"].data


def test_a_weight_past_the_range_is_refused_by_name(
    make_decoder: MakeDecoder, tmp_path: Path
) -> None:
    source = make_decoder()
    tensor = next(one for one in source.graph.initializer if one.dims == [64, 128])
    array = numpy_helper.to_array(tensor).copy()
    array[3, 5] = 7e4
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    message = f"the weight {tensor.name!r} reaches 7e+04, past the range of float16; export its component in fp32"
    with pytest.raises(UnsupportedError, match=re.escape(message)):
        write_graphs({"decoder": _narrow(source, "FLOAT16")}, tmp_path)
    write_graphs({"decoder": _narrow(source, "BFLOAT16")}, tmp_path)


def test_the_form_for_a_gpu_keeps_the_narrow_weights(make_decoder: MakeDecoder) -> None:
    source = make_decoder()
    model = _narrow(source, "FLOAT16")
    to_half(model)
    plain = ir.from_proto(source)
    to_half(plain)
    assert _types(model) == _types(plain)
    for got, expected in zip(
        cpu_session(model).run(None, FEED), cpu_session(plain).run(None, FEED), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
