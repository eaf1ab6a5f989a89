"""Names in a graph: parameters by their place in the model, everything else as short as it can be."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

__all__ = ["name_parameters", "number_values"]


def name_parameters(model: ir.Model) -> None:
    """Name each parameter by layer and module, and each node that applies one after it.

    ``lm.layers.3.self_attn.q_proj.weight`` becomes ``layers.3.q_proj``, and the node that multiplies by it too;
    where two parameters would share the short name both keep the long one.

    Args:
        model: Its initializers carry the names that the torch modules gave.
    """
    graph = model.graph
    named = [value for name, value in graph.initializers.items() if "." in name]
    shorts = {str(value.name): _short(str(value.name)) for value in named}
    taken = Counter(shorts.values())
    for value in named:
        short = shorts[str(value.name)]
        if taken[short] == 1 and "." in short:
            value.name = short
    used: set[str] = set()
    for index, node in enumerate(graph):
        name = _applied_parameter(node)
        node.name = name if name and name not in used else f"{node.op_type}_{_base36(index)}"
        used.add(node.name)


def _short(name: str) -> str:
    """Keep the innermost numbered container, the last module, and the parameter unless it is the weight."""
    parts = name.split(".")
    *modules, parameter = parts
    numbered = max((index for index, part in enumerate(modules) if part.isdigit()), default=0)
    kept = modules[max(numbered - 1, 0) : numbered + 1] if numbered else modules[-2:-1]
    if modules and modules[-1] not in kept:
        kept = [*kept, modules[-1]]
    return ".".join(kept if parameter == "weight" else [*kept, parameter])


def _applied_parameter(node: ir.Node) -> str | None:
    """Return the name of the matrix that a node multiplies by or looks up in."""
    if node.op_type not in ("MatMul", "Gemm", "Conv", "Gather"):
        return None
    for value in node.inputs:
        if value is not None and value.is_initializer() and "." in str(value.name):
            return str(value.name)
    return None


def number_values(model: ir.Model) -> None:
    """Number constants and intermediate values; parameters, the interface and attributes keep their names."""
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for body in bodies:
        _number(body)


def _number(body: ir.Graph | ir.Function) -> None:
    fixed = {value.name for value in (*body.inputs, *body.outputs)}
    initializers = body.initializers.items() if isinstance(body, ir.Graph) else ()
    constants = [value for name, value in initializers if not _keeps_name(name)]
    intermediate = [value for node in body for value in node.outputs if value.name not in fixed]
    # Two rounds: a number may still be some other value's name, and a graph holds each name once.
    for prefix in ("~", "_"):
        for index, value in enumerate((*constants, *intermediate)):
            value.name = f"{prefix}{_base36(index)}"


def _keeps_name(name: str) -> bool:
    """Say whether an initializer is a parameter; a quantized one's scale is found next to it, in its node."""
    return "." in name and not name.endswith("_scale")


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
        if number == 0:
            return digits
