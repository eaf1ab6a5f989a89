"""Inputs and outputs of a traced graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moir_edge.bundle import TensorSpec

__all__ = ["ComponentSpec"]


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
    """Inputs and outputs of one graph.

    Attributes:
        name: ``vision``, ``embedding``, ``router`` or ``decoder``.
        inputs: In order.
        outputs: In order.
        grouped: How many leading inputs the module takes one by one; the rest come as one list. They are key and value of
            each layer of a cache, which are its last outputs too.
        samples: Inputs to trace with; None for zeros and ones.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    grouped: int | None = None
    samples: tuple[torch.Tensor, ...] | None = None
