"""The `channel` and `gate` routers on one sample in plain numpy: written for reading, and independent of the torch code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.ops.reference import FloatArray
from moir_edge.router.constants import LEAST_MEAN_SQUARE, SCALE_RANGE, SHARE_FLOOR

__all__ = ["route_pooled"]

Weights = dict[str, npt.NDArray[Any]]
Found = dict[str, tuple[Any, ...]]
"""Side to its rows (tokens, hidden), picks (tokens, 1), margin, gate and scores (tokens,)."""

_OTHER = {"image": "text", "text": "image"}


def route_pooled(weights: Weights, config: Any, rows: dict[str, FloatArray]) -> Found:
    """Enrich each side from the other one's mean, as a `channel` or `gate` router does.

    Args:
        weights: The router's state dict as float32 arrays: ``{side}.mix`` (hidden,), or ``{side}.gate`` and
            ``{side}.projection``.
        config: The router's `RouterConfig`.
        rows: Side to its tokens (tokens, hidden).
    """
    enrich = {"channel": _channel, "gate": _gate}[config.kind]
    found: Found = {}
    for side, tokens in rows.items():
        if side in config.enriched_sides:
            source = rows[_OTHER[side]].mean(axis=0)
            found[side] = _result(*enrich(weights, config, side, tokens, source))
        else:  # all of it its own
            found[side] = _result(tokens, np.zeros(len(tokens)), np.ones(len(tokens)))
    return found


def _channel(
    weights: Weights, config: Any, side: str, tokens: FloatArray, source: FloatArray
) -> tuple[Any, ...]:
    """Exchange the channels of least variance for those of the other side's mean: rows, gate, scores."""
    count = max(1, math.floor(config.ratio * tokens.shape[1] + 0.5))
    weak = np.argsort(tokens.var(axis=0), kind="stable")[:count]
    scale = np.clip(_rms(tokens[:, weak]) / _rms(source[weak]), *SCALE_RANGE)
    alpha = 1.0 / (1.0 + np.exp(-weights[f"{side}.mix"][weak]))
    routed = tokens.copy()
    routed[:, weak] = alpha * scale * source[weak] + (1.0 - alpha) * tokens[:, weak]
    energy = np.maximum((tokens**2).sum(axis=1), SHARE_FLOOR)
    scores = 1.0 - (tokens[:, weak] ** 2).sum(axis=1) / energy
    return routed, np.full(len(tokens), alpha.mean()), scores


def _gate(
    weights: Weights, config: Any, side: str, tokens: FloatArray, source: FloatArray
) -> tuple[Any, ...]:
    """Add to each token the fused vector of the token and the other side's mean: rows, gate, scores."""
    del config
    routed, own_weight = tokens.copy(), np.zeros(len(tokens), np.float32)
    for index, token in enumerate(tokens):
        pair = {side: token, _OTHER[side]: source}
        joint = np.concatenate([pair["image"], pair["text"]])
        logits = weights[f"{side}.gate.weight"] @ joint + weights[f"{side}.gate.bias"]
        share = np.exp(logits - logits.max())
        share = share / share.sum()
        weighted = np.concatenate([share[0] * pair["image"], share[1] * pair["text"]])
        step = weights[f"{side}.projection.weight"] @ weighted
        routed[index] = token + step + weights[f"{side}.projection.bias"]
        own_weight[index] = share[0] if side == "image" else share[1]
    return routed, 1.0 - own_weight, own_weight


def _rms(values: FloatArray) -> float:
    return math.sqrt(max(float(np.mean(values.astype(np.float64) ** 2)), LEAST_MEAN_SQUARE))


def _result(routed: FloatArray, gate: Any, scores: Any) -> tuple[Any, ...]:
    none = np.full((len(routed), 1), -1)
    margin = np.zeros(len(routed), np.float32)
    return routed, none, margin, gate.astype(np.float32), scores.astype(np.float32)
