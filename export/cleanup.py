"""Make a traced graph small, named and honest: one pass per property, and a check of the result at the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from moir_edge.bundle import TensorSpec
from moir_edge.errors import UnsupportedError

__all__ = ["AXIS_NAMES", "check_graph", "clean", "fold_transposed_weights", "set_interface"]

AXIS_NAMES = frozenset(
    {
        "batch",
        "images",
        "sequence",
        "past_sequence",
        "total_sequence",
        "image_tokens",
        "text_tokens",
    }
)
_DOMAINS = frozenset({"", "ai.onnx", "moir_edge"})
_DTYPES = {"float32": ir.DataType.FLOAT, "int64": ir.DataType.INT64, "bool": ir.DataType.BOOL}


def clean(
    model: ir.Model, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> ir.Model:
    """Run every pass on a freshly traced model and check the result.

    Requires: initializers named after parameters, nodes of the standard domain.
    Ensures: weights of MatMul stand as (K, N) initializers under their parameter's name; no metadata; no
    constant twice; fixed axes are numbers and dynamic ones carry the names of `AXIS_NAMES`.

    Args:
        model: Edited in place where a pass allows.
        inputs: The graph's inputs in order.
        outputs: The graph's outputs in order.

    Raises:
        UnsupportedError: `check_graph` found a broken property.
    """
    fold_transposed_weights(model)
    # Large weights stay out of constant folding: the pass above has done the only fold that they need.
    model = optimizer.optimize(model, input_size_limit=1 << 14, output_size_limit=1 << 14)
    for step in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(size_limit=1 << 14),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        model = step(model).model
    set_interface(model, inputs=inputs, outputs=outputs)
    _shorten_names(model)
    check_graph(model)
    return model


def fold_transposed_weights(model: ir.Model) -> None:
    """Replace each Transpose of a matrix initializer that feeds MatMul by a transposed initializer.

    The new tensor is a view: nothing is copied until it is written. A tied head keeps its Transpose-free
    (N, K) form, because it feeds Gemm.
    """
    for node in list(model.graph):
        weight = node.inputs[0] if node.inputs else None
        if node.op_type != "Transpose" or weight is None or not _is_matrix_initializer(weight):
            continue
        if any(user.op_type != "MatMul" for user, _ in node.outputs[0].uses()):
            continue
        _replace_by_transposed(model.graph, node, weight)


def _is_matrix_initializer(value: ir.Value) -> bool:
    return value.const_value is not None and len(value.const_value.shape) == 2


def _replace_by_transposed(graph: ir.Graph, node: ir.Node, weight: ir.Value) -> None:
    tensor = weight.const_value
    if tensor is None:
        return
    name = str(weight.name)
    array = np.asarray(tensor.numpy()).T
    output = node.outputs[0]
    only_use = len(weight.uses()) == 1
    new_name = name if only_use else f"{name}.T"
    value = ir.Value(
        name=new_name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
        const_value=ir.Tensor(array, dtype=tensor.dtype, name=new_name),
    )
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    if only_use:
        graph.initializers.pop(name)
    graph.initializers[new_name] = value


def set_interface(
    model: ir.Model, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Write names, dtypes and axes of the interface, and drop the symbols that tracing made up inside."""
    for node in model.graph:
        for value in node.outputs:
            value.shape = _without_symbols(value.shape)
    for values, specs in ((model.graph.inputs, inputs), (model.graph.outputs, outputs)):
        if len(values) != len(specs):
            raise UnsupportedError(
                f"the traced graph has {len(values)} inputs or outputs, expected "
                f"{len(specs)}: {', '.join(spec.name for spec in specs)}"
            )
        for value, spec in zip(values, specs, strict=True):
            value.name = spec.name
            value.shape = ir.Shape(spec.shape)
            value.dtype = _DTYPES[spec.dtype]


def _without_symbols(shape: ir.Shape | None) -> ir.Shape | None:
    """Keep a shape only where it is all numbers: a made-up symbol reads like a real axis."""
    return shape if shape is not None and shape.is_static() else None


def _shorten_names(model: ir.Model) -> None:
    """Give short names to intermediate values and constants; parameters and the interface keep theirs."""
    graph = model.graph
    fixed = {value.name for value in (*graph.inputs, *graph.outputs)}
    fixed |= {name for name, value in graph.initializers.items() if "." in name}
    values = [value for node in graph for value in node.outputs]
    counter = 0
    for value in (*graph.initializers.values(), *values):
        if value.name in fixed:
            continue
        value.name = f"_{_base36(counter)}"
        counter += 1
    for index, node in enumerate(graph):
        node.name = _node_name(node, index)


def _node_name(node: ir.Node, index: int) -> str:
    """Name a node after the parameter that it applies, else by its number."""
    for value in node.inputs:
        if value is not None and value.is_initializer() and "." in str(value.name):
            return str(value.name).removesuffix(".weight")
    return f"{node.op_type}_{_base36(index)}"


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
        if number == 0:
            return digits


def check_graph(model: ir.Model) -> None:
    """Check what a runtime relies on.

    Raises:
        UnsupportedError: A made-up axis name (TensorRT takes a digit in quotes for a dynamic axis and fails on
            broadcasts), an operator of a foreign domain, or a large MatMul weight that is not an initializer.
    """
    for value in (*model.graph.inputs, *model.graph.outputs):
        for axis in value.shape or ():
            name = None if isinstance(axis, int) else str(axis.value)
            if name is not None and name not in AXIS_NAMES:
                raise UnsupportedError(
                    f"{value.name} has the axis {name!r}; expected a number or one of "
                    f"{', '.join(sorted(AXIS_NAMES))}"
                )
    for node in model.graph:
        if node.domain not in _DOMAINS:
            raise UnsupportedError(
                f"node {node.name} is {node.domain}::{node.op_type}; only standard ONNX operators and "
                "those of moir_edge may stand in a bundle"
            )
