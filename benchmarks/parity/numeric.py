"""Numeric parity of components: how far their outputs lie from the reference's on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from moir_edge.benchmarks.candidates import ComponentRun
from moir_edge.benchmarks.parity.schema import ComponentParity
from moir_edge.errors import ShapeError

__all__ = ["component_parity", "cosines", "index_shares"]

Floats = NDArray[np.float64]
Pairs = Sequence[tuple[ComponentRun, ComponentRun]]
Outputs = Sequence[tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]]


def component_parity(
    runs: Sequence[ComponentRun],
    reference: Sequence[ComponentRun],
    precisions: Mapping[str, str],
) -> tuple[ComponentParity, ...]:
    """Compare runs that were fed with the reference's values, component by component.

    Args:
        runs: One per prompt.
        reference: The runs that fed them.
        precisions: Component to precision.

    Raises:
        ShapeError: An output has another shape than the reference's: another model.
    """
    pairs = list(zip(runs, reference, strict=True))
    outputs: dict[str, Outputs] = {
        "vision": [(a.image_features, b.image_features) for a, b in pairs],
        "embedding": [(a.text_embeds, b.text_embeds) for a, b in pairs],
        "router": [(a.routed, b.routed) for a, b in pairs if b.routing is not None],
        "decoder": [(a.logits, b.logits) for a, b in pairs],
    }
    return tuple(
        _compare(name, precisions[name], outputs[name], pairs)
        for name in outputs
        if name in precisions and any(one is not None for _, one in outputs[name])
    )


def _compare(name: str, precision: str, outputs: Outputs, pairs: Pairs) -> ComponentParity:
    compared = [
        (np.asarray(got, np.float64), np.asarray(expected, np.float64))
        for got, expected in outputs
        if expected is not None
    ]
    for got, expected in compared:
        if got.shape != expected.shape:
            raise ShapeError(
                f"{name}: got shape {got.shape}, the reference has {expected.shape}; "
                "compare bundles of the same model"
            )
    worst = max(_worst(got, expected) for got, expected in compared)
    cosine = np.concatenate([cosines(got, expected) for got, expected in compared])
    return ComponentParity(
        component=name,
        precision=precision,
        prompts=len(compared),
        max_abs_error=worst if np.isfinite(worst) else None,
        cosine=float(cosine.mean()),
        lowest_cosine=float(cosine.min()),
        vectors=cosine.size,
        index_percent=_index_percent(pairs) if name == "router" else None,
        greedy_percent=_greedy_percent(pairs) if name == "decoder" else None,
    )


def _worst(got: Floats, expected: Floats) -> float:
    """Return the largest absolute difference; infinite where a value is not finite, which max() alone would drop."""
    difference = np.abs(got - expected)
    return float(difference.max(initial=0.0)) if np.isfinite(difference).all() else float("inf")


def cosines(got: Floats, expected: Floats) -> Floats:
    """Return the cosine between vectors of the last axis.

    Args:
        got: (…, width).
        expected: The same shape.

    Returns:
        (vectors,): 1 for two vectors of zeros, 0 where one of them is zero or not finite.
    """
    left, right = (array.reshape(-1, array.shape[-1]) for array in (got, expected))
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    both_zero = ~left.any(axis=1) & ~right.any(axis=1)
    sound = np.isfinite(norms) & (norms > 0)
    products = np.einsum(
        "vd,vd->v", np.where(sound[:, None], left, 0), np.where(sound[:, None], right, 0)
    )
    cosine: Floats = np.where(sound, products / np.where(sound, norms, 1), both_zero)
    return np.clip(cosine, -1, 1)


def _index_percent(pairs: Pairs) -> float | None:
    """Return how many of the reference's sources are found again, over the tokens that it routes, in %."""
    shares = [
        index_shares(got.routing.indices, expected.routing.indices, expected.routing.gate > 0)
        for got, expected in pairs
        if got.routing is not None and expected.routing is not None
    ]
    found = np.concatenate(shares) if shares else np.zeros(0)
    return 100 * float(found.mean()) if found.size else None


def index_shares(
    got: NDArray[np.int64], expected: NDArray[np.int64], routed: NDArray[np.bool_]
) -> Floats:
    """Return, for each routed token that names a source, the share of its sources that are found again.

    Args:
        got: (batch, tokens, k) positions, −1 for none.
        expected: The reference's.
        routed: (batch, tokens), tokens that the reference routes.

    Returns:
        (tokens,) in [0, 1].
    """
    ours, theirs = got[routed], expected[routed]
    named = theirs >= 0
    hits = (theirs[:, :, None] == ours[:, None, :]).any(axis=2) & named
    counts = named.sum(axis=1)
    shares: Floats = hits.sum(axis=1)[counts > 0] / counts[counts > 0]
    return shares


def _greedy_percent(pairs: Pairs) -> float:
    """Return the share of steps at which the same token is the most likely one, in %."""
    same = [got.logits.argmax(-1) == expected.logits.argmax(-1) for got, expected in pairs]
    return 100 * float(np.concatenate(same).mean())
