"""A torch model that computes in float32 from weights of any type: a layer is widened when it runs, and dropped after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from moir_edge.weights.mapped import MappedFiles

__all__ = ["float32_layers"]

# A share of the weights' bytes, or this much, is kept in float32 from one run to the next: it is not widened again.
_KEPT_SHARE = 0.6
_LEAST_KEPT_BYTES = 1 << 29


@contextmanager
def float32_layers(model: Any, files: MappedFiles) -> Iterator[None]:
    """Let a model run in float32 for as long as the block lasts.

    Weights are copied into memory of their own, layer by layer, unless they are float32 there already: where a mapped file
    holds them at an odd address, a product would differ in its last bits. Outside its layer's call a large weight has the type
    and the shape of the float32 one, and no values.

    Args:
        model: A Hugging Face model; its weights are as before after the block.
        files: Where its weights may be mapped from.
    """
    weights = {
        id(parameter): _Weight(parameter, files)
        for parameter in model.parameters()
        if parameter.is_floating_point()
        and (parameter.dtype != torch.float32 or files.holds(parameter))
    }
    units = [_Unit(module, weights) for module in _units(model)]
    streamed = {id(weight) for unit in units for weight in unit.weights}
    budget, memory = _Budget(weights.values()), _Memory()
    with ExitStack() as undo:
        for weight in weights.values():
            undo.callback(weight.restore)
            if id(weight) in streamed:
                weight.empty()
            else:
                weight.widen(memory)
        for unit in units:
            undo.enter_context(unit.hooked(budget, memory))
        yield


def _units(model: Any) -> list[nn.Module]:
    """Return the modules that are widened as one: each layer of a stack, the token embedding and the head."""
    found = [model.get_input_embeddings(), model.get_output_embeddings()]

    def search(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(module, nn.ModuleList):
                found.append(child)
            else:
                search(child)

    search(model)
    return [module for module in found if module is not None]


class _Weight:
    """A parameter, as it is stored and in float32.

    Args:
        parameter: Of any floating type.
        files: Where it may be mapped from.
    """

    def __init__(self, parameter: nn.Parameter, files: MappedFiles) -> None:
        self._parameter = parameter
        self._stored = parameter.data
        self._files = files
        self._blank = torch.empty(parameter.shape, dtype=torch.float32)  # never touched: free
        self.nbytes = self._blank.nbytes
        self.stored_bytes = parameter.nbytes
        self.is_float32 = parameter.dtype == torch.float32
        self.is_kept = False

    def widen(self, memory: _Memory) -> None:
        """Give the parameter its values in float32."""
        wide = memory.take(self._stored.shape)
        wide.copy_(self._stored)
        self._files.give_back(self._stored)
        self._parameter.data = wide

    def drop(self, memory: _Memory) -> None:
        """Take the values from the parameter."""
        memory.put(self._parameter.data)
        self.empty()

    def empty(self) -> None:
        """Give the parameter float32 memory without values."""
        self._parameter.data = self._blank

    def restore(self) -> None:
        """Give the parameter what it had."""
        self._parameter.data = self._stored


class _Memory:
    """Float32 memory of layers that have run, for the next ones of their shape: new memory costs time."""

    def __init__(self) -> None:
        self._free: dict[torch.Size, list[torch.Tensor]] = {}

    def take(self, shape: torch.Size) -> torch.Tensor:
        """Return memory of a shape."""
        free = self._free.get(shape)
        return free.pop() if free else torch.empty(shape, dtype=torch.float32)

    def put(self, tensor: torch.Tensor) -> None:
        """Take memory back."""
        self._free.setdefault(tensor.shape, []).append(tensor)


class _Budget:
    """Memory in which weights stay in float32 after their first use."""

    def __init__(self, weights: Iterable[_Weight]) -> None:
        stored = sum(weight.stored_bytes for weight in weights)
        self._left = max(_LEAST_KEPT_BYTES, _KEPT_SHARE * stored)

    def takes(self, weight: _Weight) -> bool:
        """Say whether a weight may stay, and count it."""
        if not weight.is_float32:
            if weight.nbytes > self._left:
                return False
            self._left -= weight.nbytes
        return True


class _Unit:
    """A module whose weights are widened for its call."""

    def __init__(self, module: nn.Module, weights: dict[int, _Weight]) -> None:
        self._module = module
        found = {id(parameter): parameter for parameter in module.parameters()}
        self.weights = [weights[key] for key in found if key in weights]

    @contextmanager
    def hooked(self, budget: _Budget, memory: _Memory) -> Iterator[None]:
        """Widen before each call and drop after it, as long as the block lasts."""

        def before(*_: Any) -> None:
            for weight in self.weights:
                if not weight.is_kept:
                    weight.is_kept = budget.takes(weight)
                    weight.widen(memory)

        def after(*_: Any) -> None:
            for weight in self.weights:
                if not weight.is_kept:
                    weight.drop(memory)

        first = self._module.register_forward_pre_hook(before)
        last = self._module.register_forward_hook(after, always_call=True)
        try:
            yield
        finally:
            first.remove()
            last.remove()
