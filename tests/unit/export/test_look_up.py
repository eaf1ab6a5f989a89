"""Token tables of exported graphs: the bits that ONNX Runtime gives, and no table where a graph computes anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from moir_edge.bundle import Bundle, TableEntry
from moir_edge.calibration.gpu_form import to_gpu_form
from moir_edge.export.look_up import token_table
from moir_edge.export.precisions import apply_precision
from moir_edge.graphs.writing import write_graphs
from moir_edge.precisions import BF16, FP16, FP32, INT4, INT8_WEIGHT_ONLY, NVFP4, PrecisionName
from moir_edge.runtime.token_table import TokenTable
from moir_edge.targets import session_config

TOKENS, HIDDEN = 1100, 16
FACTOR = 5.65625
IDS = np.array([[0, 1099, 7, 7], [512, 1, 300, 0]])


def model(factor: float | None = None, *, table: np.ndarray | None = None) -> ir.Model:
    """Return a float32 graph `embedding` as it is traced."""
    rng = np.random.default_rng(5)
    numbers = rng.standard_normal((TOKENS, HIDDEN)).astype(np.float32) if table is None else table
    constants = [numpy_helper.from_array(numbers, "table")]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows"], name="lm.embed")]
    if factor is not None:
        constants.append(numpy_helper.from_array(np.float32(factor), "factor"))
        nodes.append(helper.make_node("Mul", ["rows", "factor"], ["scaled"]))
    nodes[-1].output[0] = "inputs_embeds"
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "embedding",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info("inputs_embeds", TensorProto.FLOAT, [*shape, HIDDEN])],
        constants,
        value_info=[helper.make_tensor_value_info("rows", TensorProto.FLOAT, [*shape, HIDDEN])],
    )
    opset = helper.make_opsetid("", 21)
    return ir.from_proto(helper.make_model(graph, opset_imports=[opset], ir_version=10))


def looked_up(folder: Path, entry: TableEntry, ids: np.ndarray) -> np.ndarray:
    component = SimpleNamespace(table=entry)
    manifest = SimpleNamespace(components={"embedding": component})
    bundle = SimpleNamespace(path=folder, manifest=manifest, file=lambda name: folder / name)
    table = TokenTable.of(cast(Bundle, bundle))
    assert table is not None
    return table.rows(ids)


def computed(graph: Path, precision: str, ids: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    for key, value in session_config("embedding", precision, onnxruntime.__version__).items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"input_ids": ids})[0]
    return found


@pytest.mark.parametrize("factor", [None, FACTOR])
@pytest.mark.parametrize("precision", [FP32, FP16, BF16, INT8_WEIGHT_ONLY, INT4, NVFP4])
def test_a_table_gives_the_bits_of_its_graph(
    precision: PrecisionName, factor: float | None, tmp_path: Path
) -> None:
    graph = model(factor)
    apply_precision(graph, precision, stored_only=True)
    write_graphs({"embedding": graph}, tmp_path)
    entry = token_table(tmp_path / "embedding.onnx")
    assert entry is not None
    assert (entry.factor, entry.tokens, entry.hidden) == (factor, TOKENS, HIDDEN)
    found = looked_up(tmp_path, entry, IDS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, computed(tmp_path / "embedding.onnx", precision, IDS))
    assert np.unique(found[0, 0]).size > HIDDEN // 2


@pytest.mark.parametrize("precision", [FP16, INT8_WEIGHT_ONLY])
def test_a_table_of_a_gpu_gives_the_bits_of_its_graph(
    precision: PrecisionName, tmp_path: Path
) -> None:
    graph = model()
    apply_precision(graph, precision)
    if precision != FP16:
        to_gpu_form(graph)
    write_graphs({"embedding": graph}, tmp_path)
    entry = token_table(tmp_path / "embedding.onnx")
    assert entry is not None
    expected = computed(tmp_path / "embedding.onnx", precision, IDS)
    np.testing.assert_array_equal(looked_up(tmp_path, entry, IDS), expected)


def test_a_factor_that_is_multiplied_in_float16_makes_no_table(tmp_path: Path) -> None:
    graph = model(FACTOR)
    apply_precision(graph, FP16)
    write_graphs({"embedding": graph}, tmp_path)
    assert token_table(tmp_path / "embedding.onnx") is None


def test_a_table_in_the_graph_itself_is_not_described(tmp_path: Path) -> None:
    write_graphs({"embedding": model(table=np.ones((3, HIDDEN), np.float32))}, tmp_path)
    assert token_table(tmp_path / "embedding.onnx") is None


def _add(graph: onnx.GraphProto) -> None:
    graph.node[-1].output[0] = "rows"
    graph.node.append(helper.make_node("Add", ["rows", "factor"], ["inputs_embeds"]))


def _row_of_factors(graph: onnx.GraphProto) -> None:
    row = numpy_helper.from_array(np.ones(HIDDEN, np.float32), "factor")
    graph.initializer[1].CopyFrom(row)


def _factor_twice(graph: onnx.GraphProto) -> None:
    graph.node[-1].output[0] = "once"
    graph.node.append(helper.make_node("Mul", ["once", "factor"], ["inputs_embeds"]))


def _other_axis(graph: onnx.GraphProto) -> None:
    graph.node[0].attribute.append(helper.make_attribute("axis", 1))


def _computed_ids(graph: onnx.GraphProto) -> None:
    graph.node[0].input[1] = "positive"
    graph.node.insert(0, helper.make_node("Abs", ["input_ids"], ["positive"]))


def _other_domain(graph: onnx.GraphProto) -> None:
    graph.node[0].domain = "custom"


@pytest.mark.parametrize(
    "change", [_add, _row_of_factors, _factor_twice, _other_axis, _computed_ids, _other_domain]
)
def test_a_graph_that_computes_more_makes_no_table(
    change: Callable[[Any], None], tmp_path: Path
) -> None:
    write_graphs({"embedding": model(FACTOR)}, tmp_path)
    path = tmp_path / "embedding.onnx"
    assert token_table(path) is not None
    proto = onnx.load(path, load_external_data=False)
    names = {node.op_type: node.output[0] for node in proto.graph.node}
    for tensor in proto.graph.initializer:
        if not tensor.external_data:
            tensor.name = "factor"
    proto.graph.node[-1].input[1] = "factor"
    assert names["Mul"] == "inputs_embeds"
    onnx.save(proto, path)
    assert token_table(path) is not None
    change(proto.graph)
    onnx.save(proto, path)
    assert token_table(path) is None


def test_zero_points_make_no_table(tmp_path: Path) -> None:
    graph = model()
    apply_precision(graph, INT8_WEIGHT_ONLY)
    write_graphs({"embedding": graph}, tmp_path)
    path = tmp_path / "embedding.onnx"
    proto = onnx.load(path, load_external_data=False)
    widen = next(node for node in proto.graph.node if node.op_type == "DequantizeLinear")
    widen.input.append("zero")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(TOKENS, np.int8), "zero"))
    onnx.save(proto, path)
    assert token_table(path) is None
