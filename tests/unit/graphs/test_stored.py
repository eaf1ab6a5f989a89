"""Weights of graphs as float32 that is made when it is asked for."""

from __future__ import annotations

import io
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from moir_edge.graphs import stored
from moir_edge.graphs.editing import initializer
from moir_edge.graphs.stored import StoredTensor, pieces, transposed
from moir_edge.graphs.writing import write_graphs


class Weight:
    """bfloat16 numbers that note what is read of them."""

    def __init__(self, *shape: int) -> None:
        self.numbers = np.random.default_rng(0).normal(size=shape).astype(ml_dtypes.bfloat16)
        self.shape = shape
        self.key = id(self.numbers)
        self.reads: list[int] = []
        self.given_back = 0

    def read(self, *part: slice) -> np.ndarray:
        chosen = self.numbers[part]
        self.reads.append(chosen.size)
        return chosen.astype(np.float32)

    storage = ir.DataType.BFLOAT16

    def give_back(self) -> None:
        self.given_back += 1

    @property
    def wide(self) -> np.ndarray:
        return self.numbers.astype(np.float32)


@pytest.fixture(params=[False, True], ids=["as it lies", "transposed"])
def turned(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_values_are_those_of_the_weight_in_float32(turned: bool) -> None:
    weight = Weight(6, 4)
    tensor = StoredTensor(weight)
    tensor = tensor.transposed() if turned else tensor
    wide = weight.wide.T if turned else weight.wide
    assert tensor.dtype == ir.DataType.FLOAT
    assert tuple(tensor.shape) == wide.shape
    assert tensor.nbytes == 96
    np.testing.assert_array_equal(tensor.numpy(), wide)
    assert tensor.tobytes() == np.ascontiguousarray(wide).tobytes()
    file = io.BytesIO()
    tensor.tofile(file)
    assert file.getvalue() == np.ascontiguousarray(wide).tobytes()


def test_pieces_are_small_and_pages_are_given_back_after_the_last(
    turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PIECE_BYTES", 64)
    weight = Weight(8, 8)
    tensor = StoredTensor(weight, is_transposed=turned)
    assert max(piece.nbytes for piece in pieces(tensor)) == 64
    assert weight.reads == [16] * 4
    assert weight.given_back == 1


def test_nothing_is_read_before_a_value_is_asked_for() -> None:
    weight = Weight(6, 4)
    tensor = transposed(StoredTensor(weight, name="w"))
    copy = ir.Model(
        ir.Graph([], [], nodes=[], initializers=[initializer("w", tensor)]), ir_version=10
    )
    assert copy.clone().graph.initializers["w"].const_value is tensor
    assert weight.reads == []


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_other_ranks(shape: tuple[int, ...]) -> None:
    weight = Weight(*shape)
    assert StoredTensor(weight).tobytes() == weight.wide.tobytes()


def test_weight_of_two_graphs_is_read_once(tmp_path: Path) -> None:
    weight = Weight(32, 32)
    models = {}
    for name in ("one", "two"):
        x = ir.val("x", ir.DataType.FLOAT, (1, 32))
        w = initializer("c.w", StoredTensor(weight, name="c.w"))
        node = ir.node("MatMul", [x, w])
        node.outputs[0].name = "y"
        graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 21})
        models[name] = ir.Model(graph, ir_version=10)
    written = write_graphs(models, tmp_path)
    assert weight.reads == [1024]
    assert written["two"].data == ("one.data",)
    assert (tmp_path / "one.data").read_bytes() == weight.wide.tobytes()
