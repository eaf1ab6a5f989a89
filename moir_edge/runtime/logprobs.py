"""Log-probabilities of generated tokens, by the model's own logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moir_edge.runtime.interface import Floats
from moir_edge.runtime.warpers import log_softmax

__all__ = ["TokenLogprob", "token_logprob"]


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A generated token, and how likely the model found it.

    Attributes:
        token_id: The token.
        logprob: Natural logarithm of its probability, before temperature, penalties and filters.
        top: The most likely tokens at its place with their log-probabilities, the best first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprob(logits: Floats, token_id: int, count: int) -> TokenLogprob:
    """Return the log-probability of a token and of the most likely ones.

    Args:
        logits: (vocab,) float32.
        token_id: The token that was chosen.
        count: Tokens in `top`.
    """
    scores = log_softmax(np.asarray(logits, dtype=np.float32))
    count = min(count, len(scores))
    best = np.argpartition(-scores, count - 1)[:count] if count else np.zeros(0, np.int64)
    ordered = best[np.lexsort((best, -scores[best]))]
    return TokenLogprob(
        token_id=token_id,
        logprob=float(scores[token_id]),
        top=tuple((int(one), float(scores[one])) for one in ordered),
    )
