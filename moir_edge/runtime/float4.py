"""Open graphs with weights of four-bit floats in ONNX Runtime, which knows the type but has no `DequantizeLinear` for it.

Such graphs are for GPUs; on a CPU they are run to check them. Their weights are widened while the graph is loaded, exactly: a
stored weight has two digits, its block's scale four. That takes the package `onnx`, which devices do not have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.environment import require
from moir_edge.errors import UnsupportedError
from moir_edge.precisions import NVFP4

__all__ = ["session_source", "widen_float4"]

_HALF = 10  # onnx.TensorProto.FLOAT16


def session_source(graph: Path, precision: str) -> str | bytes:
    """Return what `InferenceSession` takes for a component.

    Args:
        graph: Its ONNX file.
        precision: Its precision in the manifest.

    Raises:
        EnvironmentProblem: Weights have to be widened and `onnx` is not installed.
        UnsupportedError: They would take more than 2 GB in float32.
    """
    return widen_float4(graph) if precision == NVFP4 else str(graph)


def widen_float4(graph: Path) -> bytes:
    """Return the graph as bytes, with float weights in place of the four-bit ones; the file is left as it is.

    They are of the type that the graph multiplies in: float16 in the GPU's form, float32 otherwise.

    Raises:
        EnvironmentProblem: `onnx` is not installed.
        UnsupportedError: The graph would take more than 2 GB.
    """
    require("onnx")
    import onnx

    model = onnx.load(graph)
    makers = {name: node for node in model.graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    narrow = [node for node in model.graph.node if _is_float4(node, tensors)]
    for node in narrow:
        weight = onnx.numpy_helper.from_array(_widened(node, tensors, makers), node.output[0])
        model.graph.node.remove(node)
        model.graph.initializer.append(weight)
    _remove_unused(model)
    try:
        content: bytes = model.SerializeToString()
    except Exception as error:  # protobuf's own, by its implementation
        raise UnsupportedError(
            f"{graph.name} takes more than 2 GB with float32 weights; ONNX Runtime cannot check it"
        ) from error
    return content


def _is_float4(node: Any, tensors: dict[str, Any]) -> bool:
    from onnx import TensorProto

    weight = tensors.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
    return weight is not None and weight.data_type == TensorProto.FLOAT4E2M1


def _widened(node: Any, tensors: dict[str, Any], makers: dict[str, Any]) -> npt.NDArray[Any]:
    """Return the (K, N) weight of a `DequantizeLinear` whose scales come from another one."""
    weight = _array(tensors[node.input[0]])
    scale, factor = makers[node.input[1]].input
    scales, outer = _array(tensors[scale]), _array(tensors[factor])
    blocks = weight.reshape(len(scales), -1, weight.shape[1])
    wide = blocks * (scales * outer)[:, None]
    half = tensors[factor].data_type == _HALF
    return wide.reshape(weight.shape).astype(np.float16 if half else np.float32)


def _array(tensor: Any) -> npt.NDArray[np.float32]:
    from onnx import numpy_helper

    array: npt.NDArray[np.float32] = numpy_helper.to_array(tensor).astype(np.float32)
    return array


def _remove_unused(model: Any) -> None:
    """Drop the scales' nodes that nothing reads any more, then the constants."""
    read = {name for node in model.graph.node for name in node.input}
    read |= {value.name for value in model.graph.output}
    for node in list(model.graph.node):
        if node.op_type == "DequantizeLinear" and not read & set(node.output):
            model.graph.node.remove(node)
    read = {name for node in model.graph.node for name in node.input}
    for tensor in list(model.graph.initializer):
        if tensor.name not in read:
            model.graph.initializer.remove(tensor)
