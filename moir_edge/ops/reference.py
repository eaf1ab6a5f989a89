"""The custom ops in plain numpy, written for reading and independent of the torch code."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moir_edge.router.constants import (
    DENSITY_FLOOR,
    DENSITY_SLOPE,
    LAYER_NORM_EPSILON,
    SHARE_FLOOR,
    SIMILARITY_SLOPE,
)

__all__ = ["route_tokens", "similarity_top_k", "token_information"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def token_information(
    tokens: FloatArray,
    valid: BoolArray,
    scale: FloatArray,
    shift: FloatArray,
    weight: FloatArray | None = None,
    bias: FloatArray | None = None,
    *,
    density: str = "confidence",
    ratio: float | None = None,
    threshold: float | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Score the tokens of one modality and close the gate on those that are not weak; without a rule all are.

    Args:
        tokens: (batch, tokens, hidden).
        valid: (batch, tokens), False where no token stands.
        scale: (hidden,) of the LayerNorm.
        shift: (hidden,) of the LayerNorm.
        weight: (hidden, 1) of the confidence head; None for entropy.
        bias: (1,) of the confidence head; None for entropy.
        density: `confidence` or `entropy`.
        ratio: Lowest share of the valid tokens that is weak, rounded half up to a number of tokens.
        threshold: Density under which a token is weak.

    Returns:
        Density and gate, (batch, tokens) and 0 where invalid, and the normalised tokens, shaped as `tokens`.
    """
    normalized = _layer_norm(tokens, scale, shift)
    if density == "confidence" and weight is not None and bias is not None:
        scores = 1.0 / (1.0 + np.exp(-(normalized @ weight + bias)[..., 0]))
    else:
        scores = _entropy(tokens)
    scores = np.where(valid, scores, 0.0).astype(np.float32)
    gate = np.zeros_like(scores)
    for sample, present in enumerate(valid):
        for index in _weak(scores[sample], present, ratio, threshold):
            gate[sample, index] = 1.0 - scores[sample, index]
    return scores, gate, normalized


def _layer_norm(tokens: FloatArray, scale: FloatArray, shift: FloatArray) -> FloatArray:
    centred = tokens - tokens.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    normalized: FloatArray = (
        centred / np.sqrt(variance + LAYER_NORM_EPSILON) * scale + shift
    ).astype(np.float32)
    return normalized


def _entropy(tokens: FloatArray) -> FloatArray:
    energy = np.square(tokens.astype(np.float64))
    share = energy / np.maximum(energy.sum(axis=-1, keepdims=True), SHARE_FLOOR)
    logs = np.log(np.maximum(share, SHARE_FLOOR))
    entropy: FloatArray = -(share * logs).sum(axis=-1) / np.log(tokens.shape[-1])
    return entropy.astype(np.float32)


def _weak(
    scores: FloatArray, present: BoolArray, ratio: float | None, threshold: float | None
) -> set[int]:
    """Return the positions of one sample's weak tokens."""
    candidates = np.flatnonzero(present)
    weak: set[int] = set(candidates.tolist() if ratio is None and threshold is None else ())
    if ratio is not None:
        quota = int(np.floor(np.float32(len(candidates)) * np.float32(ratio) + np.float32(0.5)))
        # Among equals the earlier token is the weaker; the slope is far above rounding noise.
        keys = scores[candidates] + np.float32(DENSITY_SLOPE) * np.arange(
            1, len(candidates) + 1, dtype=np.float32
        )
        weak.update(candidates[np.argsort(keys, kind="stable")[:quota]].tolist())
    if threshold is not None:
        weak.update(candidates[scores[candidates] < np.float32(threshold)].tolist())
    return weak


def similarity_top_k(
    queries: FloatArray,
    keys: FloatArray,
    density: FloatArray,
    valid: BoolArray,
    query_weight: FloatArray,
    key_weight: FloatArray,
    *,
    k: int,
) -> tuple[FloatArray, IntArray, FloatArray]:
    """Find, for each token, the k most similar tokens of the other modality.

    Args:
        queries: (batch, tokens, hidden) normalised tokens to enrich.
        keys: (batch, sources, hidden) normalised tokens of the other modality.
        density: (batch, sources) of the sources.
        valid: (batch, sources).
        query_weight: (hidden, rank), 1/√rank included.
        key_weight: (hidden, rank).
        k: How many sources.

    Returns:
        Weights (batch, tokens, k) that add up to 1, indices (batch, tokens, k) of the sources, best first and -1
        where there are fewer than k, and margin (batch, tokens), best minus runner-up, 0 without a runner-up.
    """
    batch, tokens, _ = queries.shape
    weights = np.zeros((batch, tokens, k), np.float32)
    indices = np.full((batch, tokens, k), -1, np.int64)
    margin = np.zeros((batch, tokens), np.float32)
    for sample in range(batch):
        sources = np.flatnonzero(valid[sample])
        if not sources.size:
            continue
        prior = np.log(np.maximum(density[sample, sources], DENSITY_FLOOR))
        prior = prior - SIMILARITY_SLOPE * np.arange(1, sources.size + 1)
        projected = keys[sample, sources] @ key_weight  # (sources, rank)
        similarity = (queries[sample] @ query_weight) @ projected.T + prior
        for token, row in enumerate(similarity):
            order = np.argsort(-row, kind="stable")
            best = row[order[:k]]
            exponents = np.exp(best - best[0])
            weights[sample, token, : best.size] = exponents / exponents.sum()
            indices[sample, token, : best.size] = sources[order[:k]]
            if order.size > 1:
                margin[sample, token] = row[order[0]] - row[order[1]]
    return weights, indices, margin


def route_tokens(
    tokens: FloatArray,
    sources: FloatArray,
    weights: FloatArray,
    indices: IntArray,
    gate: FloatArray,
    down: FloatArray,
    up: FloatArray,
    merge_weight: FloatArray | None = None,
    normalized: FloatArray | None = None,
    *,
    merge: str = "add",
) -> FloatArray:
    """Enrich tokens with their sources.

    Args:
        tokens: (batch, tokens, hidden) to enrich.
        sources: (batch, sources, hidden) of the other modality.
        weights: (batch, tokens, k).
        indices: (batch, tokens, k), -1 where none.
        gate: (batch, tokens).
        down: (hidden, rank), first factor of W_o.
        up: (rank, hidden), second factor of W_o.
        merge_weight: (hidden, rank) applied to `normalized` for `concat`; (hidden,) in (-1, 1), the share of the
            update per channel, for `interpolate`.
        normalized: (batch, tokens, hidden), for `concat`.
        merge: `add`, `concat` or `interpolate`.

    Returns:
        (batch, tokens, hidden).
    """
    matched = np.zeros_like(tokens)
    for sample, token, place in np.argwhere(indices >= 0):
        source = sources[sample, indices[sample, token, place]]
        matched[sample, token] += weights[sample, token, place] * source
    context = matched @ down
    if merge == "concat" and normalized is not None and merge_weight is not None:
        context = context + normalized @ merge_weight
    update = context @ up
    if merge == "interpolate" and merge_weight is not None:
        update = merge_weight * (update - tokens)
    routed: FloatArray = (tokens + gate[..., None] * update).astype(np.float32)
    return routed
