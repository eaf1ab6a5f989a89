"""Marks in a traced graph: an operator of torch that computes nothing, and the ONNX node that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from onnxscript.values import Op, Opset

__all__ = ["DOMAIN", "UnknownShape", "mark", "translations"]

DOMAIN = "moir_edge.layer"
"""Domain of the nodes."""

_OPERATOR = "moir_edge_layer::mark"
_MOST_AXES = 16
_TENSORS = [
    f"tensor({name})"
    for name in ("bool", "int32", "int64", "float16", "bfloat16", "float", "double")
]

torch.library.define(
    _OPERATOR,
    "(Tensor[] tensors, str name, int call, int[] ranks, int[] sizes, int[] like) -> Tensor[]",
)


class UnknownShape(Exception):  # noqa: N818  (a reason to trace the whole, not an error of the user)
    """An output has an axis or a type that no input has."""


def _outputs(
    tensors: Sequence[torch.Tensor],
    name: str,
    call: int,
    ranks: Sequence[int],
    sizes: Sequence[int],
    like: Sequence[int],
) -> list[torch.Tensor]:
    del name, call
    found, start = [], 0
    for rank, source in zip(ranks, like, strict=True):
        shape = [_size(tensors, one) for one in sizes[start : start + rank]]
        found.append(tensors[source].new_empty(shape))
        start += rank
    return found


torch.library.register_fake(_OPERATOR, _outputs)


def _size(tensors: Sequence[torch.Tensor], code: int) -> Any:
    """Return a fixed size, or for a code below zero the axis of an input that it stands for."""
    if code >= 0:
        return code
    source, axis = divmod(-1 - code, _MOST_AXES)
    return tensors[source].shape[axis]


def mark(
    name: str, tensors: Sequence[torch.Tensor], call: int, like: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Put a mark into the graph that is being traced.

    Args:
        name: The node's operator.
        tensors: What it reads.
        call: A number that the node carries.
        like: What it gives has the shapes and types of these.

    Raises:
        UnknownShape: An output has an axis or a type that no input has.
    """
    axes = {
        _expression(size): -1 - (source * _MOST_AXES + axis)
        for source, tensor in enumerate(tensors)
        for axis, size in enumerate(tensor.shape)
        if isinstance(size, torch.SymInt)
    }
    types = {tensor.dtype: source for source, tensor in enumerate(tensors)}
    try:
        sizes = [
            axes[_expression(size)] if isinstance(size, torch.SymInt) else int(size)
            for one in like
            for size in one.shape
        ]
        sources = [types[one.dtype] for one in like]
    except KeyError as error:
        raise UnknownShape(f"an output has the axis or type {error}, which no input has") from error
    ranks = [one.dim() for one in like]
    operator: Callable[..., list[torch.Tensor]] = torch.ops.moir_edge_layer.mark
    return list(operator(list(tensors), name, call, ranks, sizes, sources))


def _expression(size: Any) -> str:
    return str(size.node.expr)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the table by which `torch.onnx.export` makes nodes of marks."""
    return {torch.ops.moir_edge_layer.mark.default: _node}


def _node(
    tensors: Sequence[Any],
    name: str,
    call: int,
    ranks: Sequence[int],
    sizes: Sequence[int],
    like: Sequence[int],
) -> Any:
    del sizes, like
    parameter = onnx.defs.OpSchema.FormalParameter
    schema = onnx.defs.OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[parameter(f"i{at}", f"I{at}") for at in range(len(tensors))],
        outputs=[parameter(f"o{at}", f"O{at}") for at in range(len(ranks))],
        type_constraints=[
            *((f"I{at}", _TENSORS, "") for at in range(len(tensors))),
            *((f"O{at}", _TENSORS, "") for at in range(len(ranks))),
        ],
        attributes=[onnx.defs.OpSchema.Attribute("call", onnx.defs.OpSchema.AttrType.INT)],
    )
    made = Op(Opset(DOMAIN, 1), name, schema)(*tensors, call=call)
    return made if isinstance(made, Sequence) else [made]
