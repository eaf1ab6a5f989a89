"""Compare a candidate with the reference: token sequences, and the router's choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moir_edge.data.answers import Answer, RoutingRow
from moir_edge.finite import NOT_FINITE, is_finite
from moir_edge.metrics.cosine import cosines
from moir_edge.metrics.records import RoutingAgreement, TokenAgreement
from moir_edge.metrics.sources import best_found, named_by_both, sources_found

__all__ = [
    "NO_ROUTER",
    "compare_routing",
    "leading_share",
    "routing_agreement",
    "token_agreement",
]

NO_ROUTER = "not measured: no router, and the reference has one"

Floats = NDArray[np.float64]


def token_agreement(answers: Sequence[Answer], reference: Sequence[Answer]) -> TokenAgreement:
    """Compare greedy token sequences.

    Args:
        answers: One per row.
        reference: The reference's answers to the same rows.

    Raises:
        ValueError: The lists differ in length.
    """
    pairs = [(a.token_ids, b.token_ids) for a, b in zip(answers, reference, strict=True)]
    return TokenAgreement(
        rows=len(pairs),
        identical=float(np.mean([a == b for a, b in pairs])),
        leading=float(np.mean([leading_share(a, b) for a, b in pairs])),
    )


def compare_routing(
    maps: Sequence[RoutingRow] | None, reference: Sequence[RoutingRow] | None
) -> tuple[RoutingAgreement | None, str | None]:
    """Return the agreement of two candidates' routing maps, or why there is none.

    Args:
        maps: One per prompt; None without a router.
        reference: The reference's maps of the same prompts; None without a router.

    Returns:
        The figures of `routing_agreement`, and the reason for their absence; both are None where the reference routes
        nothing that could be compared.
    """
    if reference is None:
        return None, None
    if maps is None:
        return None, NO_ROUTER
    pairs = zip(maps, reference, strict=True)
    bad = sum(not (_is_finite(own) and _is_finite(ref)) for own, ref in pairs)
    if bad:
        return None, f"{NOT_FINITE} in {bad} of {len(maps)} prompts"
    return routing_agreement(maps, reference), None


def _is_finite(one: RoutingRow) -> bool:
    return all(is_finite(values) for values in (one.margins, one.gates, one.matched, one.added))


def routing_agreement(
    maps: Sequence[RoutingRow], reference: Sequence[RoutingRow]
) -> RoutingAgreement | None:
    """Compare routing maps on the tokens that the reference routes.

    Positions alone mislead: two tokens that look alike swap places under quantization and nothing is lost. The
    margin says how close such choices are, the matched cosine what the best source changes to, and the cosine of what was
    added what all of that does: a router that mixes several sources adds the same when two of them swap places.

    Args:
        maps: One per prompt.
        reference: The reference's maps of the same prompts.

    Returns:
        The figures, or None where the reference routes no token, or none from a single source (`channel` and `gate`
        take from the mean of the other modality).

    Raises:
        ValueError: The lists differ in length, or a prompt has other tokens than in the reference.
    """
    pairs = [_Pair(own, ref) for own, ref in zip(maps, reference, strict=True)]
    tokens = sum(int(pair.routed.sum()) for pair in pairs)
    if tokens == 0 or not any((pair.ref.sources[pair.routed] >= 0).any() for pair in pairs):
        return None
    either = sum(int((pair.own_routed | pair.routed).sum()) for pair in pairs)
    both = sum(int((pair.own_routed & pair.routed).sum()) for pair in pairs)
    return RoutingAgreement(
        rows=len(pairs),
        tokens=tokens,
        index_agreement=_mean([pair.index_shares() for pair in pairs]),
        best_index_agreement=_mean([pair.best_matches() for pair in pairs]),
        routed_agreement=both / either,
        margin=_median([pair.own.margins[pair.routed] for pair in pairs]),
        reference_margin=_median([pair.ref.margins[pair.routed] for pair in pairs]),
        matched_cosine=_mean([pair.matched_cosines() for pair in pairs]),
        added_cosine=_mean([pair.added_cosines() for pair in pairs]),
    )


class _Pair:
    """Two routing maps of one prompt; `routed` are the tokens that the reference routes."""

    def __init__(self, own: RoutingRow, ref: RoutingRow) -> None:
        if not np.array_equal(own.positions, ref.positions):
            raise ValueError(
                f"routing maps of different tokens: {own.positions.size} and {ref.positions.size} "
                "positions; the candidates do not tokenize the prompt alike"
            )
        self.own, self.ref = own, ref
        self.routed = ref.gates > 0
        self.own_routed = own.gates > 0

    def index_shares(self) -> Floats:
        """Per routed token that names a source, the share of its sources that the candidate takes too."""
        return sources_found(self.own.sources[self.routed], self.ref.sources[self.routed])

    def best_matches(self) -> Floats:
        """Per routed token that names a source, 1 if the best one is the same."""
        return best_found(self.own.sources[self.routed], self.ref.sources[self.routed])

    def matched_cosines(self) -> Floats:
        """Per token that both route, each from a source, the cosine of what the best sources hold."""
        both = named_by_both(self.own.sources, self.ref.sources)
        at = self.routed & self.own_routed & both
        return cosines(self.own.matched[at], self.ref.matched[at])

    def added_cosines(self) -> Floats:
        """Per token that both route, the cosine of what was added."""
        at = self.routed & self.own_routed
        return cosines(self.own.added[at], self.ref.added[at])


def leading_share(tokens: tuple[int, ...], reference: tuple[int, ...]) -> float:
    """Return the share of the longer answer's tokens that come before the first difference, in [0, 1]."""
    longer = max(len(tokens), len(reference))
    if longer == 0:
        return 1.0
    same = [a == b for a, b in zip(tokens, reference, strict=False)]
    return (same.index(False) if False in same else len(same)) / longer


def _mean(parts: Sequence[Floats]) -> float:
    values = np.concatenate(parts)
    return float(values.mean()) if values.size else 0.0


def _median(parts: Sequence[NDArray[np.float32]]) -> float:
    return float(np.median(np.concatenate(parts)))
