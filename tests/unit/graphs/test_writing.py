"""Weights on disk: outside the graph, aligned, each content once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper

from moir_edge.graphs.writing import EXTERNAL_BYTES, WrittenGraph, write_graphs

TABLE = np.arange(1024, dtype=np.float32).reshape(32, 32)


def graph(name: str, *, extra: bool = False) -> ir.Model:
    """Return x @ table (+ a small bias, + a second matrix)."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[batch, 32] x) => (float[batch, 32] y) '
        f'{{ m = MatMul (x, "{name}.table") n = Add (m, "b.bias") y = '
        + ('MatMul (n, "c.other") }' if extra else "Neg (n) }")
    )
    proto.graph.initializer.append(numpy_helper.from_array(TABLE, f"{name}.table"))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(32, np.float32), "b.bias"))
    if extra:
        other = np.full((32, 32), 2, np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(other, "c.other"))
    return ir.from_proto(proto)


def test_content_that_two_graphs_share_lies_once(tmp_path: Path) -> None:
    written = write_graphs({"one": graph("a"), "two": graph("z", extra=True)}, tmp_path)
    assert written["one"].data == ("one.data",)
    assert written["two"].data == ("two.data", "one.data")
    assert (tmp_path / "one.data").stat().st_size == TABLE.nbytes
    assert (tmp_path / "two.data").stat().st_size == TABLE.nbytes
    assert written["two"].tensor_bytes == TABLE.nbytes + 32 * 4  # the shared one counts with `one`
    assert written["two"].weight_bytes == 2 * TABLE.nbytes + 32 * 4


def test_graph_without_weights_of_its_own_has_no_data_file(tmp_path: Path) -> None:
    written = write_graphs({"one": graph("a"), "two": graph("z")}, tmp_path)
    assert written["two"].data == ("one.data",)
    assert not (tmp_path / "two.data").exists()


def test_small_tensors_stay_inside(tmp_path: Path) -> None:
    write_graphs({"one": graph("a")}, tmp_path)
    proto = onnx.load(tmp_path / "one.onnx", load_external_data=False)
    places = {tensor.name: tensor.data_location for tensor in proto.graph.initializer}
    assert places == {"a.table": onnx.TensorProto.EXTERNAL, "b.bias": onnx.TensorProto.DEFAULT}
    assert 32 * 4 < EXTERNAL_BYTES <= TABLE.nbytes


def test_written_graphs_run_and_the_models_are_left_alone(tmp_path: Path) -> None:
    model = graph("a", extra=True)
    write_graphs({"one": model}, tmp_path)
    assert not isinstance(model.graph.initializers["a.table"].const_value, ir.ExternalTensor)
    x = np.eye(32, dtype=np.float32)[:2]
    (y,) = ort.InferenceSession(str(tmp_path / "one.onnx")).run(None, {"x": x})
    np.testing.assert_array_equal(y, (x @ TABLE + 1) @ np.full((32, 32), 2, np.float32))


def test_writing_is_deterministic(tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        write_graphs({"one": graph("a", extra=True)}, folder)
        contents.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert contents[0] == contents[1]


def test_hashes_tell_structure_from_weights_and_ignore_the_place(tmp_path: Path) -> None:
    def written(folder: str, **models: ir.Model) -> WrittenGraph:
        (tmp_path / folder).mkdir()
        return write_graphs(models, tmp_path / folder)["two"]

    alone = written("alone", two=graph("a", extra=True))
    shared = written("shared", one=graph("z"), two=graph("a", extra=True))
    assert shared.data != alone.data
    assert (shared.structure_sha256, shared.weights_sha256) == (
        alone.structure_sha256,
        alone.weights_sha256,
    )
    retuned = graph("a", extra=True)
    bias = retuned.graph.initializers["b.bias"]
    bias.const_value = ir.tensor(np.zeros(32, np.float32), name="b.bias")
    other = written("other", two=retuned)
    assert other.structure_sha256 == alone.structure_sha256
    assert other.weights_sha256 != alone.weights_sha256
    assert written("smaller", two=graph("a")).structure_sha256 != alone.structure_sha256


def test_small_tensors_that_came_from_another_file_move_inside(tmp_path: Path) -> None:
    source = ir.to_proto(graph("a"))
    # everything outside, as other exporters write
    onnx.save(
        source, tmp_path / "a.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    (tmp_path / "out").mkdir()
    write_graphs({"one": ir.load(tmp_path / "a.onnx")}, tmp_path / "out")
    proto = onnx.load(tmp_path / "out" / "one.onnx")
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    np.testing.assert_array_equal(values["b.bias"], np.ones(32, np.float32))
    np.testing.assert_array_equal(values["a.table"], TABLE)
