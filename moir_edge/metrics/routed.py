"""Router outputs on a batch of prompts, and the agreement of two routers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.errors import NotFiniteError
from moir_edge.finite import count_text, is_finite, largest
from moir_edge.metrics.cosine import cosines
from moir_edge.metrics.sources import named_by_both, sources_found
from moir_edge.runtime.interface import RouterArrays

__all__ = ["RoutedPrompts", "RoutingFigures", "same_choice"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class RoutedPrompts:
    """The router's outputs on a batch; first N image tokens, then M text tokens.

    Attributes:
        embeds: (batch, sequence, hidden) as they left the router.
        positions: (batch, N + M) int64, sequence positions of the tokens, -1 where a row has fewer.
        scores: (batch, N + M), information density in [0, 1].
        indices: (batch, N + M, k) int64, sequence positions of the sources, -1 where none.
        margin: (batch, N + M), best minus runner-up similarity.
        gate: (batch, N + M), 0 for tokens that were not routed.
    """

    embeds: Array
    positions: Array
    scores: Array
    indices: Array
    margin: Array
    gate: Array

    @classmethod
    def of(cls, embeds: Array, arrays: RouterArrays) -> RoutedPrompts:
        """Join what the runtime's sessions return."""
        texts = np.where(arrays.text_mask, arrays.text_positions, -1)
        return cls(
            embeds=embeds,
            positions=np.concatenate([arrays.image_positions, texts], axis=1),
            scores=arrays.scores,
            indices=arrays.indices,
            margin=arrays.margin,
            gate=arrays.gate,
        )


class RoutingFigures:
    """Gathers agreement over prompts.

    Positions alone misreport a router whose candidates are alike, so the share of equal source sets comes with the
    similarity margin, and with the cosine between the tokens that either side picked.
    """

    def __init__(self) -> None:
        self._overlaps: list[Array] = []
        self._cosines: list[Array] = []
        self._margins: list[Array] = []
        self._own_margins: list[Array] = []
        self._score_error = 0.0
        self._gate_flips = 0
        self._tokens = 0

    def compare(self, expected: RoutedPrompts, got: RoutedPrompts) -> None:
        """Compare the outputs of two router graphs on one prompt, both by the graph's names.

        Args:
            expected: Of the reference.
            got: Of what is measured.

        Raises:
            NotFiniteError: A score, gate or margin is NaN or infinite.
        """
        for side, values in (("reference", expected), ("graph", got)):
            _require_finite(side, values)
        routed = expected.gate > 0  # (batch, tokens)
        self._gate_flips += int((routed != (got.gate > 0)).sum())
        scores = np.abs(got.scores - expected.scores)
        self._score_error = max(self._score_error, largest(scores))
        self._margins.append(expected.margin[routed])
        self._own_margins.append(got.margin[routed])
        ours, theirs = (
            got.indices[routed],
            expected.indices[routed],
        )  # (routed, k)
        self._tokens += len(theirs)
        self._overlaps.append(sources_found(ours, theirs))
        batch = np.broadcast_to(np.arange(len(routed))[:, None], routed.shape)[routed]
        self._cosines.append(_cosine(expected.embeds, batch, ours, theirs))

    def summary(self) -> dict[str, float | int] | None:
        """Return the figures as plain JSON data, or None if nothing was routed.

        A router that takes from the mean of the other modality has no figures on sources.
        """
        if not self._tokens:
            return None
        overlaps = np.concatenate(self._overlaps)
        return {
            "routed_tokens": self._tokens,
            **(self._source_figures(overlaps) if len(overlaps) else {}),
            "score_max_abs_error": self._score_error,
            "gate_flips": self._gate_flips,
        }

    def _source_figures(self, overlaps: Array) -> dict[str, float]:
        margins, cosine = np.concatenate(self._margins), np.concatenate(self._cosines)
        # Without a source on both sides there is nothing to compare, and nothing was found.
        return {
            "index_agreement": float(overlaps.mean()),
            "matched_token_cosine": float(cosine.mean()) if cosine.size else 0.0,
            "margin_median": float(np.median(margins)),
            "margin_minimum": float(margins.min()),
            "graph_margin_median": float(np.median(np.concatenate(self._own_margins))),
        }


def same_choice(got: RoutedPrompts, expected: RoutedPrompts) -> Array:
    """Return which tokens of a prompt both routers left alone or enriched from the same sources.

    Args:
        got: Of the graph, by its names.
        expected: From `torch_routing`.

    Returns:
        (batch, sequence, 1) bool.
    """
    other = (got.indices != expected.indices).any(axis=-1)
    other |= (got.gate > 0) != (expected.gate > 0)  # (batch, tokens)
    same = np.ones(expected.embeds.shape[:2], bool)
    rows, columns = np.nonzero(other & (expected.positions >= 0))
    same[rows, expected.positions[rows, columns]] = False
    return same[..., None]


def _require_finite(side: str, values: RoutedPrompts) -> None:
    for name in ("scores", "gate", "margin"):
        array = getattr(values, name)
        if not is_finite(array):
            raise NotFiniteError(f"router_{name} of the {side}: {count_text(array)}")


def _cosine(embeds: Array, batch: Array, ours: Array, theirs: Array) -> Array:
    """Return the cosine between the best sources of tokens for which both name one, (tokens,)."""
    own, other = ours[:, 0], theirs[:, 0]
    both = named_by_both(ours, theirs)
    left, right = embeds[batch[both], own[both]], embeds[batch[both], other[both]]  # (both, hidden)
    return cosines(left, right)
