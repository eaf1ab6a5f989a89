"""Make a traced graph small, named and honest: one pass per property, and a check of the result at the end."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from moir_edge.bundle import TensorSpec
from moir_edge.errors import UnsupportedError
from moir_edge.graphs.editing import initializer
from moir_edge.graphs.naming import name_parameters, number_values
from moir_edge.graphs.stored import transposed

__all__ = [
    "AXIS_NAMES",
    "OPSET",
    "check_graph",
    "clean",
    "divide_by_roots",
    "drop_default_attributes",
    "fold_transposed_weights",
    "merge_reshapes",
    "read_tensor",
    "set_interface",
    "simplify",
]

OPSET = 21

AXIS_NAMES = frozenset(
    {
        "batch",
        "images",
        "sequence",
        "past_sequence",
        "total_sequence",
        "patches",
        "windows",
        "image_rows",
        "image_tokens",
        "text_tokens",
        "routed_tokens",
    }
)
_DOMAINS = frozenset({"", "ai.onnx", "moir_edge"})
_DTYPES = {
    "float32": ir.DataType.FLOAT,
    "int64": ir.DataType.INT64,
    "int32": ir.DataType.INT32,
    "bool": ir.DataType.BOOL,
}


def simplify(model: ir.Model) -> None:
    """Fold constants and run the rewrite rules of onnxscript, in place.

    Large constants stay out of folding. Parameters are inputs yet, so their values decide nothing.
    """
    optimizer.optimize(model, input_size_limit=1 << 14, output_size_limit=1 << 14)
    common.DeduplicateInitializersPass(size_limit=1 << 14)(model)


def clean(
    model: ir.Model, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> ir.Model:
    """Run every pass but `simplify` on a traced model and check the result.

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
    common.CommonSubexpressionEliminationPass()(model)
    fold_transposed_weights(model)
    merge_reshapes(model)
    divide_by_roots(model)
    for step in (
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]  # untyped in onnx_ir
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        model = step(model).model
    drop_default_attributes(model)
    set_interface(model, inputs=inputs, outputs=outputs)
    name_parameters(model)
    number_values(model)
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
    output = node.outputs[0]
    only_use = len(weight.uses()) == 1
    new_name = name if only_use else f"{name}.T"
    value = initializer(new_name, transposed(tensor))
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    if only_use:
        graph.initializers.pop(name)
    graph.initializers[new_name] = value


def merge_reshapes(model: ir.Model) -> None:
    """Let a Reshape of a Reshape read the first one's input; only the last shape counts."""
    for node in model.graph:
        source = node.inputs[0].producer() if node.op_type == "Reshape" and node.inputs[0] else None
        # Without allowzero a 0 in the shape would copy an axis of the first one's output.
        if (
            source is None
            or source.op_type != "Reshape"
            or not node.attributes.get_int("allowzero", 0)
        ):
            continue
        node.replace_input_with(0, source.inputs[0])


def divide_by_roots(model: ir.Model) -> None:
    """Turn x × Reciprocal(Sqrt(v)) into x ÷ Sqrt(v), the form in which ONNX Runtime knows an RMS norm and fuses it."""
    for node in list(model.graph):
        if node.op_type != "Mul":
            continue
        for index, value in enumerate(node.inputs):
            inverse = value.producer() if value is not None else None
            if inverse is None or inverse.op_type != "Reciprocal":
                continue
            root = inverse.inputs[0]
            maker = root.producer() if root is not None else None
            if maker is None or maker.op_type != "Sqrt":
                continue
            _replace_node(model.graph, node, "Div", [node.inputs[1 - index], root])
            break


def _replace_node(
    graph: ir.Graph, node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None]
) -> None:
    """Put a node of another type with one output in the place of `node`."""
    old = node.outputs[0]
    new = ir.node(op_type, inputs=inputs)
    output = new.outputs[0]
    output.name, output.type, output.shape = old.name, old.type, old.shape
    graph.insert_before(node, new)
    old.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def drop_default_attributes(model: ir.Model) -> None:
    """Remove attributes that say what the operator does anyway.

    A Reshape's allowzero goes too: no axis of a graph here is ever empty but the past, which none reshapes.
    """
    opset = model.opset_imports[""]
    for node in model.graph:
        if node.domain not in ("", "ai.onnx"):
            continue
        defaults = onnx.defs.get_schema(node.op_type, opset, "").attributes
        for name, attribute in list(node.attributes.items()):
            default = (
                onnx.helper.get_attribute_value(defaults[name].default_value)
                if (defaults[name].default_value.name)
                else None
            )
            value = attribute.value
            if isinstance(default, bytes):
                default = default.decode()
            if (node.op_type, name) == ("Reshape", "allowzero") or _same(value, default):
                node.attributes.pop(name)


def _same(value: object, default: object) -> bool:
    return default is not None and value == default


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
            value.metadata_props.clear()
            value.shape = ir.Shape(spec.shape)
            value.dtype = _DTYPES[spec.dtype]


def read_tensor(value: ir.Value) -> TensorSpec:
    """Return what the manifest says of a graph's input or output."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    axes = [axis if isinstance(axis, int) else str(axis.value) for axis in value.shape or ()]
    dtype = names.get(value.dtype) if value.dtype is not None else None
    if dtype is None:
        raise UnsupportedError(f"{value.name} is {value.dtype}; expected {', '.join(_DTYPES)}")
    return TensorSpec(name=str(value.name), dtype=dtype, shape=tuple(axes))


def _without_symbols(shape: ir.Shape | None) -> ir.Shape | None:
    """Keep a shape only where it is all numbers: a made-up symbol reads like a real axis."""
    return shape if shape is not None and shape.is_static() else None


def check_graph(model: ir.Model) -> None:
    """Check what a runtime relies on.

    Raises:
        UnsupportedError: Another opset, a made-up axis name (TensorRT takes a digit in quotes for a dynamic axis and
            fails on broadcasts), or an operator of a foreign domain.
    """
    if model.opset_imports.get("") != OPSET:
        raise UnsupportedError(
            f"the graph has opset {model.opset_imports.get('')}, expected {OPSET}"
        )
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
                f"node {node.name} is {node.domain}::{node.op_type}; a bundle may hold only "
                "standard ONNX operators and moir_edge's own"
            )
