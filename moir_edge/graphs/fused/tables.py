"""Compute a rotary embedding's tables once, for every position of a context."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

__all__ = ["LARGEST_TABLE", "rotary_tables"]

LARGEST_TABLE = 1 << 25
"""Bytes of the two tables above which they are not written down: 128 Ki positions of heads of 64."""

Table = npt.NDArray[np.float32]


def rotary_tables(
    cosine: ir.Value, sine: ir.Value, context_length: int, head_dim: int
) -> tuple[Table, Table] | None:
    """Return cosines and sines by position, or None where they depend on more than the position.

    Args:
        cosine: (batch, sequence, head_dim), computed of the input `position_ids`, (batch, sequence).
        sine: Like `cosine`.
        context_length: Positions.
        head_dim: Width of a head.

    Returns:
        (context_length, head_dim / 2) float32 each, bit for bit what the graph computes.
    """
    if 2 * 4 * context_length * (head_dim // 2) > LARGEST_TABLE:
        return None
    nodes: dict[ir.Node, None] = {}
    inputs: dict[ir.Value, None] = {}
    for value in (cosine, sine):
        _collect(value, nodes, inputs)
    if [value.name for value in inputs] != ["position_ids"]:
        return None
    (positions,) = inputs
    if positions.shape is None or len(positions.shape) != 2:
        return None
    session = ort.InferenceSession(
        _model(list(nodes), positions, (cosine, sine)).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    given = np.arange(context_length, dtype=np.int64)[None]
    found = session.run(None, {"position_ids": given})
    first, second = (np.ascontiguousarray(one[0, :, : head_dim // 2]) for one in found)
    return first, second


def _collect(value: ir.Value, nodes: dict[ir.Node, None], inputs: dict[ir.Value, None]) -> None:
    """Gather the nodes that a value is computed by, each after those that it reads."""
    maker = value.producer()
    if maker is None:
        if value.const_value is None:
            inputs[value] = None
        return
    if maker in nodes:
        return
    for one in maker.inputs:
        if one is not None:
            _collect(one, nodes, inputs)
    nodes[maker] = None


def _model(
    nodes: list[ir.Node], positions: ir.Value, outputs: tuple[ir.Value, ir.Value]
) -> onnx.ModelProto:
    constants = {
        str(value.name): value.const_value
        for node in nodes
        for value in node.inputs
        if value is not None and value.const_value is not None
    }
    tensors = [
        onnx.numpy_helper.from_array(np.asarray(tensor.numpy()), name)
        for name, tensor in constants.items()
        if tensor is not None
    ]
    graph = onnx.helper.make_graph(
        [ir.to_proto(node) for node in nodes],
        "rotary",
        [
            onnx.helper.make_tensor_value_info(
                str(positions.name), onnx.TensorProto.INT64, [1, None]
            )
        ],
        [
            onnx.helper.make_tensor_value_info(str(value.name), onnx.TensorProto.FLOAT, None)
            for value in outputs
        ],
        tensors,
    )
    opsets = [onnx.helper.make_opsetid("", 21)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
