"""Image features are computed once for a prompt that asks for them twice: by themselves, and in the model's forward."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["features_once"]

# Outputs are read by name, and every config asks for that; a tower has no cache.
_WITHOUT_EFFECT = ("return_dict", "use_cache")


@contextmanager
def features_once(model: Any) -> Iterator[None]:
    """Let the base model's `get_image_features` give the same output for the same tensors inside the block.

    Args:
        model: A Hugging Face model with its router, in eval mode. One whose forward asks in another way computes twice.
    """
    base = model.base_model
    original = getattr(base, "get_image_features", None)
    if base is model or original is None:
        yield
        return
    known: dict[Hashable, Any] = {}
    kept: list[Any] = []  # so that no other tensor gets the place of one that is known
    signature = inspect.signature(original)

    def remembered(*args: Any, **kwargs: Any) -> Any:
        key = _key(signature.bind(*args, **kwargs))
        if key not in known:
            kept.append((args, kwargs))
            known[key] = original(*args, **kwargs)
        return known[key]

    vars(base)["get_image_features"] = remembered
    try:
        yield
    finally:
        del vars(base)["get_image_features"]


def _key(bound: inspect.BoundArguments) -> Hashable:
    """Return what a call is given: tensors by their identity, anything else by its text."""
    given: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        given |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    for name in _WITHOUT_EFFECT:
        given.pop(name, None)
    return tuple(
        (name, id(value) if isinstance(value, torch.Tensor) else repr(value))
        for name, value in sorted(given.items())
        if value is not None
    )
