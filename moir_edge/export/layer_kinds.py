"""Find the layers of a module that look alike: their classes, settings, shapes and buffers, whatever their weights."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn

__all__ = ["PLAIN", "Layer", "comparable", "find_layers", "first_of_each"]

_LISTS = (nn.ModuleList, nn.Sequential)
PLAIN = (bool, int, float, str, bytes, torch.dtype, torch.device, type(None))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer that others of its list look like.

    Attributes:
        path: Its name in the module that is traced.
        module: Itself.
        cache_index: Which layer of a cache is its own; None if it has none.
        signature: What its graph depends on.
    """

    path: str
    module: nn.Module
    cache_index: int | None
    signature: Hashable


def find_layers(root: nn.Module) -> Iterator[Layer]:
    """Find lists in which modules look alike; lists inside of such modules are left alone."""
    inside: list[str] = []
    for name, module in root.named_modules():
        if not isinstance(module, _LISTS) or any(name.startswith(one) for one in inside):
            continue
        layers = _layers(name, list(module)) if len(module) > 1 else []
        seen = [layer.signature for layer in layers]
        if len(set(seen)) == len(seen):
            continue
        inside.append(f"{name}.")
        yield from layers


def first_of_each(layers: Sequence[Layer]) -> set[str]:
    """Return the path of the first layer of each signature."""
    first: dict[Hashable, str] = {}
    for layer in layers:
        first.setdefault(layer.signature, layer.path)
    return set(first.values())


def _layers(container: str, modules: Sequence[nn.Module]) -> list[Layer]:
    """Describe the modules of a list; a setting that counts them does not belong to it."""
    settings = [dict(_settings(module)) for module in modules]
    places = [place for place, _ in enumerate(modules)]
    indices = [_cache_index(module) for module in modules]
    counters = {
        name
        for name in set.intersection(*(set(one) for one in settings))
        if [one[name] for one in settings] in (places, indices)
    }
    return [
        Layer(
            path=f"{container}.{place}",
            module=module,
            cache_index=indices[place],
            signature=(container, _signature(module, settings[place], counters)),
        )
        for place, module in enumerate(modules)
    ]


def _cache_index(module: nn.Module) -> int | None:
    """Return the index that a layer's attention looks its keys and values up by."""
    found = {vars(part).get("layer_idx") for part in module.modules()} - {None}
    return found.pop() if len(found) == 1 else None


def _settings(module: nn.Module) -> Iterator[tuple[tuple[str, str], Any]]:
    for part, one in module.named_modules():
        for name, value in vars(one).items():
            if not name.startswith("_") and name != "training":
                yield (part, name), value


def _signature(
    module: nn.Module,
    settings: Mapping[tuple[str, str], Any],
    counters: Collection[tuple[str, str]],
) -> Hashable:
    parts = tuple((name, type(part), _tensors(part)) for name, part in module.named_modules())
    return parts, tuple(
        (name, comparable(value)) for name, value in settings.items() if name not in counters
    )


def comparable(value: Any) -> Hashable:
    """Return what two equal settings have in common: their value, or their being one object."""
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return ("symbol", str(value.node.expr))
    if isinstance(value, PLAIN):
        return (type(value), value)
    if isinstance(value, list | tuple):
        return (type(value), tuple(comparable(one) for one in value))
    if isinstance(value, dict):
        return (dict, tuple((name, comparable(one)) for name, one in value.items()))
    if isinstance(value, partial):
        return (partial, *(comparable(one) for one in (value.func, value.args, value.keywords)))
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return (MethodType, id(value.__func__))
    return ("object", id(value))


def _tensors(module: nn.Module) -> Hashable:
    """Return names and shapes of a module's own parameters, and its buffers as they are."""
    parameters = tuple(
        (name, None if one is None else tuple(one.shape))
        for name, one in module._parameters.items()
    )
    buffers = tuple(
        (name, None if one is None else _content(one)) for name, one in module._buffers.items()
    )
    return parameters, buffers


def _content(buffer: torch.Tensor) -> Hashable:
    return (tuple(buffer.shape), buffer.dtype, buffer.detach().cpu().numpy().tobytes())
