"""Values of a graph that follow from its constants alone, as a dequantized weight does: their numbers and their bytes."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from moir_edge.graphs.sessions import cpu_session

__all__ = ["constant_bytes", "evaluate_constant"]


def constant_bytes(value: ir.Value) -> int:
    """Return the bytes of all initializers that a value is made from."""
    _, constants = _makers(value)
    return sum(0 if one.const_value is None else one.const_value.nbytes for one in constants)


def evaluate_constant(value: ir.Value) -> npt.NDArray[Any]:
    """Return what a value made from constants is, computed by ONNX Runtime, or by ONNX's reference where it lacks a type.

    Whatever operators a format writes, integers and scales or scales of scales, the numbers are those that a
    runtime multiplies with.

    Raises:
        ValueError: The value depends on an input.
    """
    nodes, constants = _makers(value)
    graph = onnx.helper.make_graph(
        [ir.to_proto(node) for node in nodes],
        "constant",
        [],
        [onnx.helper.make_tensor_value_info(str(value.name), onnx.TensorProto.FLOAT, None)],
        [_proto(one) for one in constants],
    )
    opset = nodes[-1].graph.opset_imports.get("", 21) if nodes and nodes[-1].graph else 21
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model_gen_version(graph, opset_imports=opsets)
    types = {tensor.data_type for tensor in graph.initializer}
    result: npt.NDArray[Any]
    if onnx.TensorProto.FLOAT4E2M1 in types:  # no kernel on a CPU
        from onnx.reference import ReferenceEvaluator

        outputs = cast("list[Any]", ReferenceEvaluator(model).run(None, {}))
        result = np.asarray(outputs[0], np.float32)
    else:
        # As written: a rewrite would compute the constants in an order of its own.
        result = cpu_session(model.SerializeToString(), optimized=False).run(None, {})[0]
    return result


def _makers(value: ir.Value) -> tuple[list[ir.Node], list[ir.Value]]:
    """Return the nodes that make a value, in order, and the initializers that they read."""
    node = value.producer()
    if node is None:
        if value.const_value is None:
            raise ValueError(
                f"{value.name!r} is not a constant: it depends on an input of the graph"
            )
        return [], [value]
    nodes: list[ir.Node] = []
    constants: dict[str, ir.Value] = {}
    for source in node.inputs:
        if source is not None:
            earlier, read = _makers(source)
            nodes += [one for one in earlier if one not in nodes]
            constants |= {str(one.name): one for one in read}
    return [*nodes, node], list(constants.values())


def _proto(constant: ir.Value) -> onnx.TensorProto:
    """Return a constant under the name by which nodes read it."""
    if constant.const_value is None:
        raise ValueError(f"{constant.name!r} has no value")
    proto = onnx.TensorProto()
    proto.CopyFrom(ir.to_proto(constant.const_value))
    proto.name = str(constant.name)
    return proto
