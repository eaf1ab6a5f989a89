"""Hold a manifest against itself: its files, its graphs' inputs and outputs, and the facts that the runtime takes sizes from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from moir_edge.bundle.manifest import (
    COMPONENTS,
    ComponentEntry,
    Manifest,
    ModelFacts,
    TableEntry,
)
from moir_edge.errors import BundleError

__all__ = ["check_consistent"]

# Component -> output or input -> axis (-1: the last) -> the fact that it has to equal.
_AXES: dict[str, dict[str, dict[int, str]]] = {
    "vision": {
        "pixel_values": {2: "image_size", 3: "image_size"},
        "image_features": {1: "tokens_per_tile", -1: "hidden_size"},
    },
    "embedding": {"inputs_embeds": {2: "hidden_size"}},
    "router": {"inputs_embeds": {2: "hidden_size"}, "routed_embeds": {2: "hidden_size"}},
    "decoder": {"inputs_embeds": {2: "hidden_size"}, "logits": {2: "vocab_size"}},
}
_CACHE_AXES = {1: "num_kv_heads", 3: "head_dim"}


def check_consistent(manifest: Manifest, path: Path) -> None:
    """Refuse a manifest whose parts contradict each other.

    Args:
        manifest: As it was read.
        path: Its file, for messages.

    Raises:
        BundleError: The first contradiction, with both sides.
    """
    for problem in _problems(manifest):
        raise BundleError(f"{path}: {problem}; export the bundle again")


def _problems(manifest: Manifest) -> Iterator[str]:
    names = [entry.path for entry in manifest.files]
    listed = set(names)
    if len(listed) < len(names):
        yield "files lists a path twice"
    for name, component in manifest.components.items():
        if name not in COMPONENTS:
            yield f"components.{name} is not one of {', '.join(COMPONENTS)}"
        for file in (component.graph, *component.data):
            if file not in listed:
                yield f"components.{name} names {file}, which files does not list"
        fused = component.fused
        if fused is not None and fused.graph not in listed:
            yield f"components.{name}.fused names {fused.graph}, which files does not list"
    for engine in manifest.engines:
        if engine.path not in listed:
            yield f"engines names {engine.path}, which files does not list"
    yield from _fact_problems(manifest.model)
    for name, component in manifest.components.items():
        yield from _shape_problems(name, component, manifest.model)
        if component.table is not None:
            yield from _table_problems(name, component, component.table, manifest)


def _table_problems(
    name: str, component: ComponentEntry, table: TableEntry, manifest: Manifest
) -> Iterator[str]:
    """Find what keeps a token table from being read where the manifest says it lies."""
    if name != "embedding":
        yield f"components.{name} has a table, which only embedding may have"
    if len(table.values.shape) != 2 or table.hidden != manifest.model.hidden_size:
        yield (
            f"components.{name}.table has values of shape {list(table.values.shape)}, and model.hidden_size is "
            f"{manifest.model.hidden_size}"
        )
    scale = table.scale
    if (scale is None) == (table.values.dtype == "int8"):
        yield f"components.{name}.table has {table.values.dtype} values {'without' if scale is None else 'with'} a scale"
    if scale is not None and (scale.shape != (table.tokens,) or scale.dtype == "int8"):
        yield (
            f"components.{name}.table has a scale of {scale.dtype} {list(scale.shape)}, "
            f"expected floats of [{table.tokens}]"
        )
    sizes = {entry.path: entry.bytes for entry in manifest.files}
    for place in filter(None, (table.values, scale)):
        if place.file not in component.data:
            yield f"components.{name}.table lies in {place.file}, which is not in its data"
        elif place.end > sizes.get(place.file, 0):
            yield (
                f"components.{name}.table ends at byte {place.end} of {place.file}, which has {sizes.get(place.file, 0)}"
            )


def _fact_problems(facts: ModelFacts) -> Iterator[str]:
    for key in ("image_token_id", "pad_token_id"):
        token = getattr(facts, key)
        if token >= facts.vocab_size:
            yield f"model.{key} is {token} and model.vocab_size {facts.vocab_size}"
    if (facts.tokens_per_tile or 0) >= facts.context_length:
        yield (
            f"model.tokens_per_tile is {facts.tokens_per_tile}, which leaves no room in "
            f"model.context_length, {facts.context_length}"
        )
    if facts.image_grid is not None and facts.image_grid.tokens != facts.tokens_per_tile:
        yield (
            f"model.image_grid has {facts.image_grid.tokens} tokens and model.tokens_per_tile is {facts.tokens_per_tile}"
        )


def _shape_problems(name: str, component: ComponentEntry, facts: ModelFacts) -> Iterator[str]:
    axes = _AXES.get(name, {})
    cached = 0
    for spec in (*component.inputs, *component.outputs):
        cached += spec.is_cache
        for axis, fact in (_CACHE_AXES if spec.is_cache else axes.get(spec.name, {})).items():
            size = spec.shape[axis] if axis < len(spec.shape) else None
            stated = getattr(facts, fact)
            if stated is not None and isinstance(size, int | None) and size != stated:
                yield (
                    f"components.{name} has {spec.name} of shape {list(spec.shape)}, and model.{fact} is {stated}"
                )
    if cached and cached != 4 * facts.num_layers:
        yield f"components.{name} has {cached // 4} layers in its cache and model.num_layers is {facts.num_layers}"
