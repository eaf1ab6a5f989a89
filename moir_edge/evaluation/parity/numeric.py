"""Numeric parity of components: how far their outputs lie from the reference's on the same inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moir_edge.bundle import COMPONENTS
from moir_edge.errors import NotFiniteError, ShapeError
from moir_edge.evaluation.candidates import ComponentRun
from moir_edge.evaluation.parity.schema import ComponentParity
from moir_edge.finite import count_text, is_finite, largest
from moir_edge.metrics.cosine import cosines
from moir_edge.metrics.sources import sources_found

if TYPE_CHECKING:
    from moir_edge.runtime.interface import RouterArrays

__all__ = ["ComponentFigures"]

_ERROR_FIGURES = ("max_abs_error", "cosine", "lowest_cosine")

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
        self._expected: set[str] = set()

    def add(self, run: ComponentRun, reference: ComponentRun) -> None:
        """Compare one prompt.

        Args:
            run: Fed with the reference's values.
            reference: The run that fed it.

        Raises:
            ShapeError: An output has another shape than the reference's: another model.
            NotFiniteError: An output of the reference is not finite.
        """
        self._add("vision", run.image_features, reference.image_features)
        self._add("embedding", run.text_embeds, reference.text_embeds)
        self._add("decoder", run.logits, reference.logits)
        self._same.append(run.logits.argmax(-1) == reference.logits.argmax(-1))
        if reference.routing is None:
            return
        self._add("router", run.routed, reference.routed)
        if run.routing is not None:
            self._add_routing(run.routing, reference.routing)

    def summary(self) -> tuple[ComponentParity, ...]:
        """Return the figures of every component that ran, in the order in which they run."""
        return tuple(self._figures(name) for name in COMPONENTS if name in self._components)

    def missing(self) -> tuple[str, ...]:
        """Return the components that the reference ran and this bundle has not."""
        lacking = self._expected - set(self._components)
        return tuple(name for name in COMPONENTS if name in lacking)

    def _add(self, name: str, got: Output, expected: Output) -> None:
        if expected is None:
            return
        self._expected.add(name)
        if not is_finite(expected):
            raise NotFiniteError(
                f"the reference's {name}: {count_text(expected)}; "
                "nothing can be compared with it, give a reference with finite outputs"
            )
        if name not in self._precisions or got is None:
            return
        if got.shape != expected.shape:
            raise ShapeError(
                f"{name}: got shape {got.shape}, the reference has {expected.shape}; "
                "compare bundles of the same model"
            )
        left, right = (array.astype(np.float64) for array in (got, expected))
        gathered = self._components.setdefault(name, _Gathered())
        gathered.errors.append(largest(np.abs(left - right)))
        gathered.cosines.append(cosines(left, right))

    def _add_routing(self, own: RouterArrays, truth: RouterArrays) -> None:
        routed = truth.gate > 0
        self._shares.append(sources_found(own.indices[routed], truth.indices[routed]))
        if not all(is_finite(values) for values in (own.scores, own.gate, own.margin)):
            # The embeddings may be finite all the same: such a router leaves them as they are.
            self._components["router"].errors.append(math.nan)

    def _figures(self, name: str) -> ComponentParity:
        gathered = self._components[name]
        cosine, error = np.concatenate(gathered.cosines), largest(gathered.errors)
        figures: dict[str, float | None] = dict.fromkeys(_ERROR_FIGURES)
        if math.isfinite(error):
            figures = {
                "max_abs_error": error,
                "cosine": float(cosine.mean()),
                "lowest_cosine": float(cosine.min()),
                **self._shares_of(name),
            }
        return ComponentParity(
            component=name,
            precision=self._precisions[name],
            prompts=len(gathered.cosines),
            vectors=cosine.size,
            **figures,
        )

    def _shares_of(self, name: str) -> dict[str, float]:
        """Return the agreement figures that only one component has."""
        if name == "decoder":
            return {"greedy_agreement": float(np.concatenate(self._same).mean())}
        shares = np.concatenate(self._shares) if self._shares else np.zeros(0)
        if name == "router" and shares.size:
            return {"index_agreement": float(shares.mean())}
        return {}


@dataclass
class _Gathered:
    """Figures of one component: per prompt the largest error (NaN if not finite) and the cosines of its vectors."""

    errors: list[float] = field(default_factory=list)
    cosines: list[Floats] = field(default_factory=list)
