"""Trace a decoder with the cache of its traced layers alone: a layer that leaves a mark borrows its keys and values.

Each further tensor of a cache costs the tracer more than the mark itself. The graph gets the others when it is stamped.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import onnx_ir as ir
from torch import nn

from moir_edge.export.interfaces import ComponentSpec

__all__ = ["BorrowedCache"]

_T = TypeVar("_T")


class BorrowedCache:
    """Layers of a cache that hold the tensors of another one while a decoder is traced.

    Args:
        spec: Of the decoder: its last inputs and outputs are key and value of each layer in turn.
        twins: For the layers that could borrow, whose tensors they would hold.

    Attributes:
        spec: The interface without the borrowed inputs and their outputs.
        borrowing: The layers that do borrow.
    """

    def __init__(self, spec: ComponentSpec, twins: Mapping[int, int]) -> None:
        self._whole = spec
        self._first = len(spec.inputs) if spec.grouped is None else spec.grouped
        self._layers = (len(spec.inputs) - self._first) // 2
        self._twins = {
            layer: twin
            for layer, twin in twins.items()
            if layer < self._layers and twin < self._layers and self._alike(layer, twin)
        }
        self.borrowing = frozenset(self._twins)
        self.spec = replace(
            spec,
            inputs=self._kept(spec.inputs),
            outputs=self._kept(spec.outputs),
            samples=None if spec.samples is None else self._kept(spec.samples),
        )

    def _alike(self, layer: int, twin: int) -> bool:
        ours, theirs = (self._whole.inputs[self._first + 2 * one :][:2] for one in (layer, twin))
        return [(one.dtype, one.shape) for one in ours] == [
            (one.dtype, one.shape) for one in theirs
        ]

    def _kept(self, items: Sequence[_T]) -> tuple[_T, ...]:
        """Return the other arguments, and the tensors of layers that keep theirs."""
        start = len(items) - 2 * self._layers
        return tuple(
            one
            for place, one in enumerate(items)
            if place < start or (place - start) // 2 not in self._twins
        )

    @contextmanager
    def lent(self, module: nn.Module) -> Iterator[None]:
        """Let a module take and give the tensors of `spec` for as long as the block lasts."""
        if not self._twins:
            yield
            return
        original = module.forward
        owners = [layer for layer in range(self._layers) if layer not in self._twins]
        lenders = [owners.index(self._twins.get(layer, layer)) for layer in range(self._layers)]

        @functools.wraps(original)
        def forward(*args: Any) -> tuple[Any, ...]:
            *others, past = args
            whole = [tensor for place in lenders for tensor in past[2 * place : 2 * place + 2]]
            return self._kept(original(*others, whole))

        vars(module)["forward"] = forward
        try:
            yield
        finally:
            del vars(module)["forward"]

    def own_names(self, layer: int | None, traced: int | None) -> dict[str, str]:
        """Return the names of a traced layer's keys and values, as inputs and outputs, to those of a layer that borrows."""
        if layer not in self._twins or layer is None or traced is None:
            return {}
        names: dict[str, str] = {}
        for tensors in (self._whole.inputs, self._whole.outputs):
            start = len(tensors) - 2 * self._layers
            for part in range(2):
                theirs, ours = (tensors[start + 2 * one + part] for one in (traced, layer))
                names[theirs.name] = ours.name
        return names

    def put_in_order(self, model: ir.Model) -> None:
        """Let the inputs and outputs of a stamped graph stand as in the whole interface; others go behind the inputs."""
        graph = model.graph
        for values, specs in (
            (graph.inputs, self._whole.inputs),
            (graph.outputs, self._whole.outputs),
        ):
            found = {str(value.name): value for value in values}
            named = [found.pop(one.name) for one in specs]
            values.clear()
            values.extend([*named, *found.values()])
