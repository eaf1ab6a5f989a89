"""Figures on the router's choices: the same sources, or others that carry the same?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.errors import NotFiniteError
from moir_edge.finite import count_text, is_finite, largest
from moir_edge.metrics.cosine import cosines

__all__ = ["RoutingFigures", "same_choice", "torch_routing"]

Array = npt.NDArray[Any]


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
        self._names_sources = False

    def compare(self, expected: Mapping[str, Array], got: Mapping[str, Array]) -> None:
        """Compare the outputs of two router graphs on one prompt, both by the graph's names.

        Args:
            expected: Of the reference.
            got: Of what is measured.

        Raises:
            NotFiniteError: A score, gate or margin is NaN or infinite.
        """
        for side, values in (("reference", expected), ("graph", got)):
            _require_finite(side, values)
        routed = expected["router_gate"] > 0  # (batch, tokens)
        self._gate_flips += int((routed != (got["router_gate"] > 0)).sum())
        scores = np.abs(got["router_scores"] - expected["router_scores"])
        self._score_error = max(self._score_error, largest(scores))
        self._margins.append(expected["router_margin"][routed])
        self._own_margins.append(got["router_margin"][routed])
        ours, theirs = (
            got["router_indices"][routed],
            expected["router_indices"][routed],
        )  # (routed, k)
        self._names_sources |= bool((theirs >= 0).any())
        self._overlaps.append(_overlap(ours, theirs))
        batch = np.broadcast_to(np.arange(len(routed))[:, None], routed.shape)[routed]
        self._cosines.append(_cosine(expected["routed_embeds"], batch, ours, theirs))

    def summary(self) -> dict[str, float | int] | None:
        """Return the figures as plain JSON data, or None if nothing was routed.

        A router that takes from the mean of the other modality has no figures on sources.
        """
        overlaps = np.concatenate(self._overlaps) if self._overlaps else np.zeros(0)
        if not len(overlaps):
            return None
        return {
            "routed_tokens": len(overlaps),
            **(self._source_figures(overlaps) if self._names_sources else {}),
            "score_max_abs_error": self._score_error,
            "gate_flips": self._gate_flips,
        }

    def _source_figures(self, overlaps: Array) -> dict[str, float]:
        margins = np.concatenate(self._margins)
        return {
            "index_agreement": float(overlaps.mean()),
            "matched_token_cosine": float(np.concatenate(self._cosines).mean()),
            "margin_median": float(np.median(margins)),
            "margin_minimum": float(margins.min()),
            "graph_margin_median": float(np.median(np.concatenate(self._own_margins))),
        }


def torch_routing(model: Any) -> dict[str, Array] | None:
    """Return the outputs of a model's router, by the graph's names, on the prompt that it has just run.

    Args:
        model: A model with a router.

    Returns:
        ``routed_embeds``, ``router_scores``, ``router_indices``, ``router_margin`` and ``router_gate``, shapes as in
        `moir_edge.router.RouterOutput`, and ``positions`` (batch, tokens) of the tokens in the prompt, -1 for none. None if
        nothing was routed.
    """
    from moir_edge.router import last_routing

    routing = last_routing(model)
    if routing is None:
        return None
    places = [routing.image_positions, routing.text_positions]
    return {
        "positions": np.concatenate([place.numpy() for place in places], axis=1),
        **{graph: getattr(routing.output, name).numpy() for graph, name in _FIELDS.items()},
    }


def same_choice(got: Mapping[str, Array], expected: Mapping[str, Array]) -> Array:
    """Return which tokens of a prompt both routers left alone or enriched from the same sources.

    Args:
        got: Of the graph, by its names.
        expected: From `torch_routing`.

    Returns:
        (batch, sequence, 1) bool.
    """
    other = (got["router_indices"] != expected["router_indices"]).any(axis=-1)
    other |= (got["router_gate"] > 0) != (expected["router_gate"] > 0)  # (batch, tokens)
    same = np.ones(expected["routed_embeds"].shape[:2], bool)
    rows, columns = np.nonzero(other & (expected["positions"] >= 0))
    same[rows, expected["positions"][rows, columns]] = False
    return same[..., None]


def _require_finite(side: str, values: Mapping[str, Array]) -> None:
    for name in ("router_scores", "router_gate", "router_margin"):
        if not is_finite(values[name]):
            raise NotFiniteError(f"{name} of the {side}: {count_text(values[name])}")


# Output of the graph to field of `RouterOutput`.
_FIELDS = {
    "routed_embeds": "inputs_embeds",
    "router_scores": "scores",
    "router_indices": "indices",
    "router_margin": "margin",
    "router_gate": "gate",
}


def _overlap(ours: Array, theirs: Array) -> Array:
    """Return the share of each token's sources that both picked, (tokens,) in [0, 1]."""
    valid = theirs >= 0
    shared = (theirs[:, :, None] == ours[:, None, :]).any(axis=-1) & valid
    share: Array = shared.sum(axis=1) / np.maximum(valid.sum(axis=1), 1)
    return share


def _cosine(embeds: Array, batch: Array, ours: Array, theirs: Array) -> Array:
    """Return the cosine between the best sources that either picked, (tokens,), as `moir-edge compare` has it."""
    own, other = ours[:, 0], theirs[:, 0]
    both = (own >= 0) & (other >= 0)
    left, right = embeds[batch[both], own[both]], embeds[batch[both], other[both]]  # (both, hidden)
    return cosines(left, right)
