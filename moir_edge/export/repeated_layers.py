"""Trace one layer of each kind: while a module is traced, a mark stands in the place of every further layer.

A kind is what decides a layer's graph: its classes, settings and shapes, and all that it is called with but the values
of tensors. `moir_edge.export.stamping` puts copies of the traced layer in the places of the marks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree
from transformers import Cache

from moir_edge.export.layer_kinds import PLAIN, Layer, comparable, find_layers, first_of_each
from moir_edge.export.marks import UnknownShape, mark

__all__ = ["Call", "PatternUnknown", "RepeatedLayers"]

_STATE = ("_modules", "_parameters", "_buffers")


class PatternUnknown(Exception):  # noqa: N818  (a reason to trace the whole, not an error of the user)
    """Layers of a module hang together in a way that this file does not know; the message says how."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a layer.

    Attributes:
        path: Name of the layer in the module that is traced.
        traced: Number of the call whose graph is this one's too; its own number where it was traced.
        given: Which of the traced call's tensors, by place, the mark reads in their stead; the others are the same ones.
        cache_index: Which layer of a cache is its own; None if it has none.
    """

    path: str
    traced: int
    given: tuple[int, ...] = ()
    cache_index: int | None = None


@dataclass(kw_only=True)
class _Entry:
    """The arguments of a layer.

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
    """The result of a layer of a kind.

    Attributes:
        number: Of the call that was traced.
        before: What went in, as `_Entry.tensors` has it.
        gone: What stands for the written tensors of further calls where the cache is borrowed; nobody may read it.
        leaves: What is returned in order, nested values one by one.
        spec: How `leaves` are nested.
        written: Attributes of the cache's layer that get a new tensor.
        plain: Attributes of it that get another value.
        tensors: The returned and the written ones.
    """

    number: int
    before: list[torch.Tensor]
    gone: list[torch.Tensor]
    leaves: list[Any]
    spec: Any
    written: tuple[str, ...]
    plain: Mapping[str, Any]
    tensors: list[torch.Tensor]

    @property
    def returned(self) -> list[torch.Tensor]:
        """The returned tensors alone."""
        return self.tensors[: len(self.tensors) - len(self.written)]


class RepeatedLayers:
    """Layers of a module that look alike, and what became of each call of one.

    Args:
        root: The module to trace, in eval mode.

    Attributes:
        calls: Every call of a layer, by the number that its mark carries.
        borrowing: Layers of a cache that hold another one's tensors; see `moir_edge.export.borrowed_cache`.
    """

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._layers = list(find_layers(root))
        self._wanted = first_of_each(self._layers)
        self._kinds: dict[Hashable, _Exit] = {}
        self.calls: list[Call] = []
        self.borrowing: Collection[int] = ()
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

    def twins(self) -> dict[int, int]:
        """Return, for layers of a cache whose own layer will leave a mark, one of a layer that looks like it and is traced."""
        indices = [one.cache_index for one in self._layers]
        if None in indices or len(set(indices)) < len(indices):
            return {}
        traced = {
            one.signature: one.cache_index for one in self._layers if one.path in self._wanted
        }
        return {
            index: twin
            for one, index in zip(self._layers, indices, strict=True)
            if one.path not in self._wanted
            and index is not None
            and (twin := traced[one.signature]) is not None
        }

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

    def _forward(self, layer: Layer) -> Callable[..., Any]:
        original = layer.module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            entry = _entry(layer, args, kwargs)
            kind = (layer.signature, _entry_key(entry))
            known = self._kinds.get(kind)
            number = len(self.calls)
            if known is not None:
                call, result = _marked(layer, entry, known, number, self.borrowing)
                self.calls.append(call)
                return result
            if layer.path not in self._wanted:
                self.missing = layer.path
                raise PatternUnknown(f"{layer.path} is of a kind of its own")
            self.calls.append(Call(path=layer.path, traced=number, cache_index=layer.cache_index))
            result, self._kinds[kind] = _traced(layer, original, entry, number)
            return result

        return forward


def _entry(layer: Layer, args: Any, kwargs: Any) -> _Entry:
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


def _own_cache(layer: Layer, cache: Any) -> Any:
    if layer.cache_index is None or layer.cache_index >= len(cache.layers):
        raise PatternUnknown(f"{layer.path} gets a cache and has no layer of its own in it")
    return cache.layers[layer.cache_index]


def _flatten(tree: Any) -> tuple[list[Any], Any]:
    return _pytree.tree_flatten(tree, is_leaf=lambda value: isinstance(value, Cache))


def _entry_key(entry: _Entry) -> Hashable:
    leaves = tuple(_leaf_key(leaf) for leaf in entry.leaves)
    held = tuple((name, _leaf_key(value)) for name, value in entry.state.items())
    plain = tuple((name, comparable(value)) for name, value in entry.plain.items())
    return (str(entry.spec), leaves, held, plain)


def _leaf_key(leaf: Any) -> Hashable:
    if isinstance(leaf, torch.Tensor):
        return (leaf.dtype, tuple(comparable(axis) for axis in leaf.shape))
    return "cache" if isinstance(leaf, Cache) else comparable(leaf)


def _traced(
    layer: Layer, original: Callable[..., Any], entry: _Entry, number: int
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
        before=before,
        gone=[],
        leaves=leaves,
        spec=spec,
        written=tuple(written),
        plain={name: value for name, value in changed.items() if name not in written},
        tensors=after,
    )
    if any(not isinstance(leaf, (torch.Tensor, *PLAIN)) for leaf in leaves):
        raise PatternUnknown(f"{layer.path} returns more than tensors")
    tensors = mark("Leave", after, number, after)
    if written:
        own = tensors[len(made.returned) :]
        made.gone.extend(mark("Gone", own, number, own))
    return _returned(layer, entry, made, tensors), made


def _marked(
    layer: Layer, entry: _Entry, kind: _Exit, number: int, borrowing: Collection[int]
) -> tuple[Call, Any]:
    """Leave a mark in the place of a layer, and return the call and what the layer would return."""
    tensors, like = entry.tensors, kind.tensors
    is_borrowing = entry.cache is not None and layer.cache_index in borrowing
    if is_borrowing:
        tensors, like = tensors[: len(tensors) - len(entry.state)], kind.returned
    given = [place for place, one in enumerate(tensors) if one is not kind.before[place]]
    try:
        found = mark("Layer", [tensors[place] for place in given], number, like)
    except UnknownShape:
        given = list(range(len(tensors)))
        found = mark("Layer", tensors, number, like)
    call = Call(
        path=layer.path, traced=kind.number, given=tuple(given), cache_index=layer.cache_index
    )
    return call, _returned(layer, entry, kind, [*found, *(kind.gone if is_borrowing else [])])


def _returned(layer: Layer, entry: _Entry, kind: _Exit, tensors: Sequence[torch.Tensor]) -> Any:
    given = iter(tensors)
    leaves = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in kind.leaves]
    if entry.cache is not None:
        _write(layer, entry.cache, kind.written, list(given))
        for name, value in kind.plain.items():
            setattr(_own_cache(layer, entry.cache), name, value)
    return _pytree.tree_unflatten(leaves, kind.spec)


def _write(layer: Layer, cache: Any, names: Any, tensors: Sequence[torch.Tensor]) -> None:
    for name, tensor in zip(names, tensors, strict=True):
        setattr(_own_cache(layer, cache), name, tensor)


def _others(layer: Layer, cache: Any) -> list[tuple[str, int]]:
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
