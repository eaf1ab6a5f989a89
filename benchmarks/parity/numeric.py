"""Numeric parity of components: how far their outputs lie from the reference's on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moir_edge.benchmarks.candidates import ComponentRun
from moir_edge.benchmarks.parity.schema import ComponentParity
from moir_edge.bundle import COMPONENTS
from moir_edge.errors import ShapeError

__all__ = ["ComponentFigures", "cosines", "index_shares"]

Floats = NDArray[np.float64]
Output = NDArray[np.float32] | None


class ComponentFigures:
    """Gathers figures over prompts; of each prompt only a few numbers per token are kept.

    Args:
        precisions: Component to precision, of the bundle that is compared.
    """

    def __init__(self, precisions: Mapping[str, str]) -> None:
        self._precisions = precisions
        self._components: dict[str, _Gathered] = {}
        self._shares: list[Floats] = []
        self._same: list[NDArray[np.bool_]] = []

    def add(self, run: ComponentRun, reference: ComponentRun) -> None:
        """Compare one prompt.

        Args:
            run: Fed with the reference's values.
            reference: The run that fed it.

        Raises:
            ShapeError: An output has another shape than the reference's: another model.
        """
        self._add("vision", run.image_features, reference.image_features)
        self._add("embedding", run.text_embeds, reference.text_embeds)
        self._add("decoder", run.logits, reference.logits)
        self._same.append(run.logits.argmax(-1) == reference.logits.argmax(-1))
        if reference.routing is None:
            return
        self._add("router", run.routed, reference.routed)
        if run.routing is not None:
            truth = reference.routing
            shares = index_shares(run.routing.indices, truth.indices, truth.gate > 0)
            self._shares.append(shares)

    def summary(self) -> tuple[ComponentParity, ...]:
        """Return the figures of every component that ran, in the order in which they run."""
        return tuple(self._figures(name) for name in COMPONENTS if name in self._components)

    def _add(self, name: str, got: Output, expected: Output) -> None:
        if name not in self._precisions or got is None or expected is None:
            return
        if got.shape != expected.shape:
            raise ShapeError(
                f"{name}: got shape {got.shape}, the reference has {expected.shape}; "
                "compare bundles of the same model"
            )
        left, right = (array.astype(np.float64) for array in (got, expected))
        gathered = self._components.setdefault(name, _Gathered())
        gathered.worst = max(gathered.worst, _worst(left, right))
        gathered.cosines.append(cosines(left, right))

    def _figures(self, name: str) -> ComponentParity:
        gathered = self._components[name]
        cosine = np.concatenate(gathered.cosines)
        shares = np.concatenate(self._shares) if self._shares else np.zeros(0)
        named = name == "router" and shares.size
        return ComponentParity(
            component=name,
            precision=self._precisions[name],
            prompts=len(gathered.cosines),
            max_abs_error=gathered.worst if np.isfinite(gathered.worst) else None,
            cosine=float(cosine.mean()),
            lowest_cosine=float(cosine.min()),
            vectors=cosine.size,
            index_percent=100 * float(shares.mean()) if named else None,
            greedy_percent=(
                100 * float(np.concatenate(self._same).mean()) if name == "decoder" else None
            ),
        )


@dataclass
class _Gathered:
    """What is kept of one component: the largest error, and per prompt the cosines of its vectors."""

    worst: float = 0.0
    cosines: list[Floats] = field(default_factory=list)


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
