"""Trace one layer of each kind: while a module is traced, a mark stands in the place of every further layer.

A kind is what decides a layer's graph: its classes, settings and shapes, and all that it is called with but the values
of tensors. `moir_edge.export.stamping` puts copies of the traced layer in the places of the marks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree
from transformers import Cache

from moir_edge.export.marks import mark

__all__ = ["Call", "PatternUnknown", "RepeatedLayers"]

_LISTS = (nn.ModuleList, nn.Sequential)
_PLAIN = (bool, int, float, str, bytes, torch.dtype, torch.device, type(None))
_STATE = ("_modules", "_parameters", "_buffers")


class PatternUnknown(Exception):  # noqa: N818  (a reason to trace the whole, not an error of the user)
    """Layers of a module hang together in a way that this file does not know; the message says how."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a layer.

    Attributes:
        path: Name of the layer in the module that is traced.
        traced: Number of the call whose graph is this one's too; its own number where it was traced.
    """

    path: str
    traced: int


@dataclass(frozen=True, kw_only=True)
class _Layer:
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


@dataclass(kw_only=True)
class _Entry:
    """What a layer is called with.

    Attributes:
        leaves: Arguments in order, nested ones one by one.
        spec: How `leaves` are nested.
        cache: The cache among them, or None.
        state: The tensors in the cache's layer, by attribute.
        plain: The other attributes of the cache's layer.
    """

    leaves: list[Any]
    spec: Any
    cache: Any = None
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Every tensor that goes in."""
        own = [leaf for leaf in self.leaves if isinstance(leaf, torch.Tensor)]
        return [*own, *self.state.values()]

    def arguments(self, tensors: Sequence[torch.Tensor]) -> tuple[Any, Any]:
        """Return positional and named arguments with other tensors in them."""
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves]
        found: tuple[Any, Any] = _pytree.tree_unflatten(leaves, self.spec)
        return found


@dataclass(frozen=True, kw_only=True)
class _Exit:
    """What a layer of a kind returns.

    Attributes:
        number: Of the call that was traced.
        leaves: What is returned in order, nested values one by one.
        spec: How `leaves` are nested.
        written: Attributes of the cache's layer that get a new tensor.
        plain: Attributes of it that get another value.
        tensors: The returned and the written ones.
    """

    number: int
    leaves: list[Any]
    spec: Any
    written: tuple[str, ...]
    plain: Mapping[str, Any]
    tensors: list[torch.Tensor]


class RepeatedLayers:
    """Layers of a module that look alike, and what became of each call of one.

    Args:
        root: The module to trace, in eval mode.

    Attributes:
        calls: Every call of a layer, by the number that its mark carries.
    """

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._layers = list(_find(root))
        self._wanted = _first_of_each(self._layers)
        self._kinds: dict[Hashable, _Exit] = {}
        self.calls: list[Call] = []
        self.missing: str | None = None

    def __bool__(self) -> bool:
        return len(self._wanted) < len(self._layers)

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Let layers whose kind has been traced leave a mark for as long as the block lasts.

        Those that are expected to do so have no parameters meanwhile, so that tracing does not count them.
        """
        with ExitStack() as undo:
            hook = self._root.register_forward_pre_hook(lambda *_: self._start())
            undo.callback(hook.remove)
            for layer in self._layers:
                undo.enter_context(_forward_replaced(layer.module, self._forward(layer)))
                if layer.path not in self._wanted:
                    undo.enter_context(_without_state(layer.module))
            yield

    def want_missing(self) -> bool:
        """Have the layer traced whose kind was not expected, and say whether there was one."""
        missing, self.missing = self.missing, None
        if missing is None:
            return False
        self._wanted.add(missing)
        return True

    def _start(self) -> None:
        # Tracing runs the module several times.
        self._kinds.clear()
        self.calls.clear()

    def _forward(self, layer: _Layer) -> Callable[..., Any]:
        original = layer.module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            entry = _entry(layer, args, kwargs)
            kind = (layer.signature, _entry_key(entry))
            known = self._kinds.get(kind)
            number = len(self.calls)
            if known is not None:
                self.calls.append(Call(path=layer.path, traced=known.number))
                return _marked(layer, entry, known, number)
            if layer.path not in self._wanted:
                self.missing = layer.path
                raise PatternUnknown(f"{layer.path} is of a kind of its own")
            self.calls.append(Call(path=layer.path, traced=number))
            result, self._kinds[kind] = _traced(layer, original, entry, number)
            return result

        return forward


def _find(root: nn.Module) -> Iterator[_Layer]:
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


def _first_of_each(layers: Sequence[_Layer]) -> set[str]:
    first: dict[Hashable, str] = {}
    for layer in layers:
        first.setdefault(layer.signature, layer.path)
    return set(first.values())


def _layers(container: str, modules: Sequence[nn.Module]) -> list[_Layer]:
    """Describe the modules of a list; a setting that counts them is no part of what they are."""
    settings = [dict(_settings(module)) for module in modules]
    places = [place for place, _ in enumerate(modules)]
    indices = [_cache_index(module) for module in modules]
    counters = {
        name
        for name in set.intersection(*(set(one) for one in settings))
        if [one[name] for one in settings] in (places, indices)
    }
    return [
        _Layer(
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
        (name, _plain(value)) for name, value in settings.items() if name not in counters
    )


def _plain(value: Any) -> Hashable:
    """Return what two equal settings have in common: their value, or their being one object."""
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return ("symbol", str(value.node.expr))
    if isinstance(value, _PLAIN):
        return (type(value), value)
    if isinstance(value, list | tuple):
        return (type(value), tuple(_plain(one) for one in value))
    if isinstance(value, dict):
        return (dict, tuple((name, _plain(one)) for name, one in value.items()))
    if isinstance(value, partial):
        return (partial, *(_plain(one) for one in (value.func, value.args, value.keywords)))
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


def _entry(layer: _Layer, args: Any, kwargs: Any) -> _Entry:
    leaves, spec = _flatten((args, kwargs))
    caches = {id(leaf): leaf for leaf in leaves if isinstance(leaf, Cache)}
    entry = _Entry(leaves=leaves, spec=spec)
    if not caches:
        return entry
    (entry.cache,) = caches.values()
    held = vars(_own_cache(layer, entry.cache))
    entry.state = {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}
    entry.plain = {name: value for name, value in held.items() if name not in entry.state}
    return entry


def _own_cache(layer: _Layer, cache: Any) -> Any:
    if layer.cache_index is None or layer.cache_index >= len(cache.layers):
        raise PatternUnknown(f"{layer.path} gets a cache and has no layer of its own in it")
    return cache.layers[layer.cache_index]


def _flatten(tree: Any) -> tuple[list[Any], Any]:
    return _pytree.tree_flatten(tree, is_leaf=lambda value: isinstance(value, Cache))


def _entry_key(entry: _Entry) -> Hashable:
    leaves = tuple(_leaf_key(leaf) for leaf in entry.leaves)
    held = tuple((name, _leaf_key(value)) for name, value in entry.state.items())
    plain = tuple((name, _plain(value)) for name, value in entry.plain.items())
    return (str(entry.spec), leaves, held, plain)


def _leaf_key(leaf: Any) -> Hashable:
    if isinstance(leaf, torch.Tensor):
        return (leaf.dtype, tuple(_plain(axis) for axis in leaf.shape))
    return "cache" if isinstance(leaf, Cache) else _plain(leaf)


def _traced(
    layer: _Layer, original: Callable[..., Any], entry: _Entry, number: int
) -> tuple[Any, _Exit]:
    """Run a layer between two marks."""
    before = entry.tensors
    tensors = mark("Enter", before, number, before)
    arguments, named = entry.arguments(tensors)
    others = _others(layer, entry.cache)
    if entry.cache is not None:
        _write(layer, entry.cache, entry.state, tensors[len(before) - len(entry.state) :])
    marked = {} if entry.cache is None else dict(vars(_own_cache(layer, entry.cache)))
    leaves, spec = _flatten(original(*arguments, **named))
    if _others(layer, entry.cache) != others:
        raise PatternUnknown(f"{layer.path} writes to the cache of another layer")
    now = {} if entry.cache is None else vars(_own_cache(layer, entry.cache))
    changed = {name: value for name, value in now.items() if value is not marked.get(name)}
    written = {name: one for name, one in changed.items() if isinstance(one, torch.Tensor)}
    after = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)] + list(written.values())
    made = _Exit(
        number=number,
        leaves=leaves,
        spec=spec,
        written=tuple(written),
        plain={name: value for name, value in changed.items() if name not in written},
        tensors=after,
    )
    if any(not isinstance(leaf, (torch.Tensor, *_PLAIN)) for leaf in leaves):
        raise PatternUnknown(f"{layer.path} returns more than tensors")
    return _returned(layer, entry, made, mark("Leave", after, number, after)), made


def _marked(layer: _Layer, entry: _Entry, kind: _Exit, number: int) -> Any:
    """Leave a mark in the place of a layer, and return what it would return."""
    return _returned(layer, entry, kind, mark("Layer", entry.tensors, number, kind.tensors))


def _returned(layer: _Layer, entry: _Entry, kind: _Exit, tensors: Sequence[torch.Tensor]) -> Any:
    given = iter(tensors)
    leaves = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in kind.leaves]
    if entry.cache is not None:
        _write(layer, entry.cache, kind.written, list(given))
        for name, value in kind.plain.items():
            setattr(_own_cache(layer, entry.cache), name, value)
    return _pytree.tree_unflatten(leaves, kind.spec)


def _write(layer: _Layer, cache: Any, names: Any, tensors: Sequence[torch.Tensor]) -> None:
    for name, tensor in zip(names, tensors, strict=True):
        setattr(_own_cache(layer, cache), name, tensor)


def _others(layer: _Layer, cache: Any) -> list[tuple[str, int]]:
    """Return which tensors the other layers of a cache hold."""
    return [
        (name, id(value))
        for index, one in enumerate([] if cache is None else cache.layers)
        if index != layer.cache_index
        for name, value in vars(one).items()
        if isinstance(value, torch.Tensor)
    ]


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    before = vars(module).get("forward")
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = before


@contextmanager
def _without_state(module: nn.Module) -> Iterator[None]:
    """Take a module's parts away for as long as the block lasts; class, settings and hooks stay."""
    before = {name: vars(module)[name] for name in _STATE}
    vars(module).update({name: {} for name in _STATE})
    try:
        yield
    finally:
        vars(module).update(before)
