"""Answers and routing maps that a model gives to rows; light enough for the process of a candidate."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Answer", "RoutingRow"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A greedy answer to one row; `token_ids` are the new tokens without the end token."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RoutingRow:
    """The routing map of one prompt; positions count from the first token that is not padding.

    Attributes:
        positions: (tokens,) int64, the tokens the router looked at: image tokens, then text tokens.
        sources: (tokens, top_k) int64, positions of their sources, best first, -1 where there is none.
        margins: (tokens,) float32, best minus runner-up similarity.
        gates: (tokens,) float32, 0 for a token that was left as it was.
        matched: (tokens, hidden) float32, the embedding of the best source as it entered the router.
        added: (tokens, hidden) float32, what the router added to each token, all its sources weighed.
    """

    positions: NDArray[np.int64]
    sources: NDArray[np.int64]
    margins: NDArray[np.float32]
    gates: NDArray[np.float32]
    matched: NDArray[np.float32] = field(repr=False)
    added: NDArray[np.float32] = field(repr=False)
