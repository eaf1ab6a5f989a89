"""Divergence of two distributions over tokens, and cross entropy of the next token, in nats and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["cross_entropy", "kl_divergence", "log_softmax"]

Floats = npt.NDArray[np.float64]


def log_softmax(logits: npt.NDArray[Any]) -> Floats:
    """Return log probabilities over the last axis, same shape."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def kl_divergence(reference: npt.NDArray[Any], logits: npt.NDArray[Any]) -> Floats:
    """Return KL(p ‖ q) = Σ p (log p − log q) per position, p from `reference` and q from `logits`: (…, vocab) to (…)."""
    log_p, log_q = log_softmax(reference), log_softmax(logits)
    # Rounding may leave the divergence of two near-equal distributions a hair below zero.
    result: Floats = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=-1), 0.0)
    return result


def cross_entropy(logits: npt.NDArray[Any], tokens: npt.NDArray[np.int64]) -> Floats:
    """Return −log q(token) per position: (…, vocab) and (…) to (…)."""
    picked = np.take_along_axis(log_softmax(logits), tokens[..., None], axis=-1)
    result: Floats = -picked[..., 0]
    return result
