from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

VOCABULARY, HIDDEN, WIDE = 96, 64, 128


def _random(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray],
    opset: int = 21,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        inputs,
        outputs,
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(model)


@pytest.fixture
def table() -> np.ndarray:
    """The token table that embedding and head share, (vocabulary, hidden)."""
    return _random(VOCABULARY, HIDDEN, seed=7)


@pytest.fixture
def embedding_model(table: np.ndarray) -> onnx.ModelProto:
    """Token ids to embeddings by one Gather."""
    return _model(
        [helper.make_node("Gather", ["embed", "input_ids"], ["inputs_embeds"], name="embed")],
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [
            helper.make_tensor_value_info(
                "inputs_embeds", TensorProto.FLOAT, ["batch", "sequence", HIDDEN]
            )
        ],
        {"embed": table},
    )


@pytest.fixture
def make_decoder(table: np.ndarray) -> Callable[..., onnx.ModelProto]:
    """A residual layer and a tied head: (batch, hidden) to logits (batch, 1, vocabulary)."""

    def make(opset: int = 21) -> onnx.ModelProto:
        node = helper.make_node
        return _model(
            [
                node("MatMul", ["inputs_embeds", "up.weight"], ["wide"], name="up"),
                node("Tanh", ["wide"], ["active"], name="tanh"),
                node("MatMul", ["active", "down.weight"], ["narrow"], name="down"),
                node("MatMul", ["narrow", "odd.weight"], ["odd_out"], name="odd"),
                node("Gemm", ["odd_out", "back.weight", "back.bias"], ["back_out"], name="back"),
                node("MatMul", ["back_out", "tiny.weight"], ["tiny_out"], name="tiny"),
                node("MatMul", ["tiny_out", "tiny_back.weight"], ["hidden"], name="tiny_back"),
                node("Gemm", ["hidden", "embed"], ["flat"], name="head", transB=1),
                node("Unsqueeze", ["flat", "axis"], ["logits"], name="unsqueeze"),
            ],
            [helper.make_tensor_value_info("inputs_embeds", TensorProto.FLOAT, ["batch", HIDDEN])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, VOCABULARY])],
            {
                "up.weight": _random(HIDDEN, WIDE, seed=1) / 8,
                "down.weight": _random(WIDE, HIDDEN, seed=2) / 8,
                "odd.weight": _random(HIDDEN, 40, seed=3) / 8,
                "back.weight": _random(40, HIDDEN, seed=4) / 6,
                "back.bias": _random(HIDDEN, seed=5),
                "tiny.weight": _random(HIDDEN, 4, seed=6) / 8,
                "tiny_back.weight": _random(4, HIDDEN, seed=8),
                "embed": table,
                "axis": np.array([1], np.int64),
            },
            opset,
        )

    return make
