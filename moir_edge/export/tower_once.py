"""The vision tower of a torch model runs once for the same pixels, however often and in whatever prompt they are asked about."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch

__all__ = ["tower_once"]

# Outputs are read by name, and every config asks for that; a tower has no cache.
_WITHOUT_EFFECT = ("return_dict", "use_cache")
_MOST_KEPT = 4


@contextmanager
def tower_once(model: Any) -> Iterator[None]:
    """Let a model's vision tower give the same output for equal tensors inside the block.

    Args:
        model: A Hugging Face model, in eval mode; its weights must not change inside the block.
    """
    tower = model.get_encoder(modality="image")
    original = tower.forward
    known: dict[Hashable, Any] = {}
    signature = inspect.signature(original)

    def remembered(*args: Any, **kwargs: Any) -> Any:
        key = _key(signature.bind(*args, **kwargs))
        if key not in known:
            if len(known) == _MOST_KEPT:
                known.pop(next(iter(known)))
            known[key] = original(*args, **kwargs)
        return copy(known[key])  # a model may put other tensors into the object

    vars(tower)["forward"] = remembered
    try:
        yield
    finally:
        del vars(tower)["forward"]


def _key(bound: inspect.BoundArguments) -> Hashable:
    """Return what a call is given: tensors by a hash of their numbers, anything else by its text."""
    given: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        given |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    for name in _WITHOUT_EFFECT:
        given.pop(name, None)
    return tuple(
        (name, _content(value) if isinstance(value, torch.Tensor) else repr(value))
        for name, value in sorted(given.items())
        if value is not None
    )


def _content(tensor: torch.Tensor) -> Hashable:
    numbers: Any = tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
    return (tensor.dtype, tuple(tensor.shape), hashlib.sha256(numbers).digest())
