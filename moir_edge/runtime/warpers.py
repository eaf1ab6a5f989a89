"""Temperature and the filters on drawn tokens, in numpy, as `transformers` applies them.

Each filter takes the scores of one row, (vocab,) float32, and returns them with minus infinity for what is ruled out.

Source: `transformers.generation.logits_process` (the warpers), order and treatment of ties included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from moir_edge.runtime.generation_config import GenerationRules

__all__ = ["Warper", "log_softmax", "softmax", "warpers_for"]

Scores: TypeAlias = npt.NDArray[np.float32]
Warper: TypeAlias = Callable[[Scores], Scores]

_TOP_H_TOKENS = 100
_RULED_OUT = np.float32(-np.inf)


def warpers_for(rules: GenerationRules, temperature: float) -> list[Warper]:
    """Return the filters of a draw, in transformers' order.

    Args:
        rules: What the generation config and the caller say.
        temperature: Above 0.
    """
    chosen: list[tuple[bool, Warper]] = [
        (temperature != 1, partial(_heated, temperature=temperature)),
        (rules.top_h is not None, partial(_top_h, share=rules.top_h or 0)),
        (rules.top_k > 0, partial(_top_k, count=rules.top_k)),
        (rules.top_p < 1, partial(_top_p, mass=rules.top_p)),
        (rules.min_p is not None, partial(_min_p, share=rules.min_p or 0)),
        (rules.typical_p < 1, partial(_typical, mass=rules.typical_p)),
        (rules.epsilon_cutoff > 0, partial(_epsilon, cutoff=rules.epsilon_cutoff)),
        (rules.eta_cutoff > 0, partial(_eta, cutoff=rules.eta_cutoff)),
    ]
    return [warper for wanted, warper in chosen if wanted]


def softmax(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return the probabilities of scores along the last axis."""
    exponent = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: npt.NDArray[np.floating] = exponent / exponent.sum(axis=-1, keepdims=True)
    return result


def log_softmax(scores: Scores) -> Scores:
    """Return the logarithms of the probabilities (`renormalize_logits`)."""
    shifted = scores - scores.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), dtype=np.float32)


def _heated(scores: Scores, *, temperature: float) -> Scores:
    return (scores / np.float32(temperature)).astype(np.float32)


def _top_h(scores: Scores, *, share: float) -> Scores:
    """Keep the likeliest tokens until their part of the entropy passes this share of it."""
    order = np.argsort(-scores, kind="stable")[:_TOP_H_TOKENS]
    log_p = log_softmax(scores[order])
    terms = -np.exp(log_p) * np.where(np.isfinite(log_p), log_p, np.float32(0))
    kept = np.cumsum(terms) <= share * terms.sum()
    kept[0] = True
    return _only(scores, order[kept])


def _top_k(scores: Scores, *, count: int) -> Scores:
    if count >= len(scores):
        return scores
    return np.where(scores < np.partition(scores, -count)[-count], _RULED_OUT, scores)


def _top_p(scores: Scores, *, mass: float) -> Scores:
    order = np.argsort(scores, kind="stable")
    out = np.cumsum(softmax(scores[order])) <= 1 - mass
    out[-1] = False
    return _only(scores, order[~out])


def _min_p(scores: Scores, *, share: float) -> Scores:
    probabilities = softmax(scores)
    return _without(scores, probabilities < np.float32(share) * probabilities.max())


def _typical(scores: Scores, *, mass: float) -> Scores:
    """Keep the tokens whose information is nearest the entropy, up to this mass."""
    log_p = log_softmax(scores)
    entropy = -np.nansum(np.where(np.isfinite(log_p), log_p, 0) * np.exp(log_p))
    distance = np.abs(-log_p - entropy)
    order = np.argsort(distance, kind="stable")
    last = min(int((np.cumsum(softmax(scores[order])) < mass).sum()), len(order) - 1)
    out = distance > distance[order[last]]
    out[order[0]] = False
    return np.where(out, _RULED_OUT, scores)


def _epsilon(scores: Scores, *, cutoff: float) -> Scores:
    return _without(scores, softmax(scores) < np.float32(cutoff))


def _eta(scores: Scores, *, cutoff: float) -> Scores:
    log_p = log_softmax(scores)
    entropy = -(np.exp(log_p) * np.where(np.isfinite(log_p), log_p, 0)).sum()
    bound = min(cutoff, np.sqrt(cutoff) * np.exp(-entropy))
    return _without(scores, softmax(scores) < np.float32(bound))


def _only(scores: Scores, kept: npt.NDArray[np.int64]) -> Scores:
    result = np.full_like(scores, _RULED_OUT)
    result[kept] = scores[kept]
    return result


def _without(scores: Scores, out: npt.NDArray[np.bool_]) -> Scores:
    """Rule tokens out, but never the likeliest one."""
    return np.where(out & (scores < scores.max()), _RULED_OUT, scores)
