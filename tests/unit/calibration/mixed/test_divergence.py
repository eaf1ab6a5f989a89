from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax as scipy_log_softmax
from scipy.stats import entropy

from moir_edge.calibration.mixed.divergence import cross_entropy, kl_divergence, log_softmax


def test_divergence_by_hand() -> None:
    # p = (1/2, 1/2), q = (1/4, 3/4): KL = ½ ln 2 + ½ ln (2/3)
    p, q = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]]) + 7.0
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert kl_divergence(p, q) == pytest.approx([expected], rel=1e-12)
    assert cross_entropy(q, np.array([1])) == pytest.approx([-math.log(0.75)], rel=1e-12)


def test_divergence_is_scipys() -> None:
    random = np.random.default_rng(0)
    p, q = random.normal(size=(2, 3, 4, 50)) * 5
    expected = entropy(
        np.exp(scipy_log_softmax(p, axis=-1)), np.exp(scipy_log_softmax(q, axis=-1)), axis=-1
    )
    np.testing.assert_allclose(kl_divergence(p, q), expected, rtol=1e-10)
    np.testing.assert_allclose(log_softmax(q), scipy_log_softmax(q, axis=-1), rtol=1e-12)


def test_divergence_is_never_negative_nor_moved_by_a_constant() -> None:
    logits = np.random.default_rng(1).normal(size=(20, 1000)).astype(np.float32)
    assert (kl_divergence(logits, logits + np.float32(1e-7)) >= 0).all()
    assert kl_divergence(logits, logits) == pytest.approx(np.zeros(20), abs=0)
    far = kl_divergence(logits, logits[::-1] + 1000)
    # float32 logits near 1000 have steps of 6e-5.
    np.testing.assert_allclose(far, kl_divergence(logits, logits[::-1]), rtol=1e-3)


def test_logits_far_apart_give_finite_figures() -> None:
    p, q = np.array([[0.0, -1e4]]), np.array([[-1e4, 0.0]])
    assert kl_divergence(p, q) == pytest.approx([1e4])
    assert cross_entropy(p, np.array([1])) == pytest.approx([1e4])
