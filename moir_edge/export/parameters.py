"""Parameters of a module that is traced: shapes while tracing, and tensors of the graph once it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import onnx_ir as ir
import torch
from torch import nn

__all__ = ["Weights", "attach", "canonical_names", "detach", "module_weights", "shapes_only"]

Weights = Callable[[str], ir.TensorProtocol]
"""Called with a parameter's name in the traced module; returns its float32 tensor, which may be read later."""


def module_weights(module: nn.Module) -> Weights:
    """Return the parameters of a module in memory as they are; nothing is copied that is float32."""

    def tensor(name: str) -> ir.TensorProtocol:
        array = module.get_parameter(name).detach().to("cpu", torch.float32).numpy()
        return ir.Tensor(array, dtype=ir.DataType.FLOAT, name=name)

    return tensor


def canonical_names(module: nn.Module) -> dict[str, str]:
    """Return every name of a parameter to the last one, which torch gives to a parameter that is shared."""
    named = list(module.named_parameters(remove_duplicate=False))
    last = {id(parameter): name for name, parameter in named}
    return {name: last[id(parameter)] for name, parameter in named}


@contextmanager
def shapes_only(module: nn.Module) -> Iterator[None]:
    """Let each parameter of a module be float32 memory that nobody has written for as long as the block lasts.

    Only shapes decide a graph. Memory that is not touched costs nothing, and the model's own may lie on the disk or on
    no device at all.
    """
    blanks: dict[int, nn.Parameter] = {}
    before = []
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                before.append((part._parameters, name, parameter))
    try:
        for held, name, parameter in before:
            blank = blanks.get(id(parameter))
            if blank is None:
                memory = torch.empty(parameter.shape, dtype=torch.float32)
                blank = blanks[id(parameter)] = nn.Parameter(memory, requires_grad=False)
            held[name] = blank
        yield
    finally:
        for held, name, parameter in before:
            held[name] = parameter


def detach(model: ir.Model, names: Mapping[str, str]) -> None:
    """Make inputs of the parameters of a graph, so that no pass looks at their values.

    Args:
        model: Edited in place.
        names: From `canonical_names`.
    """
    graph = model.graph
    for name in [name for name in graph.initializers if name in names]:
        value = graph.initializers.pop(name)
        value.const_value, value.name = None, names[name]
        graph.inputs.append(value)


def attach(model: ir.Model, names: Mapping[str, str], weights: Weights) -> None:
    """Make initializers of the inputs that are parameters, in the order of the module.

    Args:
        model: Edited in place.
        names: From `canonical_names`.
        weights: Gives each its tensor.
    """
    graph = model.graph
    order = {name: place for place, name in enumerate(names)}
    values = [value for value in graph.inputs if value.name in order]
    others = list(graph.initializers.values())
    graph.initializers.clear()
    for value in sorted(values, key=lambda one: order[str(one.name)]):
        graph.inputs.remove(value)
        if value.uses():
            value.const_value = weights(str(value.name))
            graph.initializers.add(value)
    for value in others:
        graph.initializers.add(value)
