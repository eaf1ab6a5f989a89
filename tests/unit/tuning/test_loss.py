"""The task loss against a loop over rows in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from moir_edge.tuning.loss import answer_divergence, answer_loss


def test_every_row_counts_the_same_however_long_its_answer() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 6, 5))
    labels = np.full((3, 6), -100)
    labels[0, 5] = 2
    labels[1, 2:6] = [0, 1, 4, 3]
    labels[2, 3:5] = [1, 1]
    expected = []
    for row in range(3):
        terms = []
        for at in range(1, 6):
            if labels[row, at] >= 0:
                shares = np.exp(logits[row, at - 1]) / np.exp(logits[row, at - 1]).sum()
                terms.append(-np.log(shares[labels[row, at]]))
        expected.append(np.mean(terms))
    loss = answer_loss(torch.from_numpy(logits), torch.from_numpy(labels))
    # float32 inside
    np.testing.assert_allclose(float(loss), np.mean(expected), rtol=1e-6)


def test_one_row_is_the_plain_mean_cross_entropy() -> None:
    logits = torch.randn(1, 4, 7, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[-100, -100, 3, 6]])
    plain = torch.nn.functional.cross_entropy(logits[0, 1:3], labels[0, 2:])
    torch.testing.assert_close(answer_loss(logits, labels), plain)


def test_divergence_by_hand() -> None:
    """Two rows of two and one answer tokens, three words; the third row does not take part."""
    base, other = torch.zeros(3, 4, 3), torch.zeros(3, 4, 3)
    labels = torch.full((3, 4), -100)
    labels[0, 2:], labels[1, 3], labels[2, 1:] = 1, 0, 2
    # positions 1 and 2 predict the answer of row 0: shares (1/2, 1/4, 1/4) against thirds, then equal ones
    base[0, 1] = torch.tensor([0.5, 0.25, 0.25]).log()
    # position 2 predicts that of row 1: thirds against (1/2, 1/4, 1/4)
    other[1, 2] = torch.tensor([0.5, 0.25, 0.25]).log()
    other[2] = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    first = 0.5 * math.log(1.5) + 2 * 0.25 * math.log(0.75)
    second = (math.log(2 / 3) + 2 * math.log(4 / 3)) / 3
    expected = (first / 2 + second) / 2
    counted = torch.tensor([True, True, False])
    # float32 inside; logits may be off by a constant
    assert float(answer_divergence(base, other + 3.0, labels, counted)) == pytest.approx(
        expected, rel=1e-5
    )
    assert float(answer_divergence(base, base, labels, counted)) == 0.0
