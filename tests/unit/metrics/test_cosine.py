"""Cosines against scipy, and of vectors without a direction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cosine as cosine_distance

from moir_edge.metrics.cosine import cosines


# float32 squares of the small ones vanish: 1e-30 squared is under its smallest number
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_cosines_are_scipys_at_every_scale(scale: float) -> None:
    random = np.random.default_rng(0)
    got, expected = scale * random.normal(size=(2, 3, 4, 8))
    wanted = [
        1 - cosine_distance(a / scale, b / scale)
        for a, b in zip(got.reshape(-1, 8), expected.reshape(-1, 8), strict=True)
    ]
    # both compute in float64; the sums may be taken in another order
    np.testing.assert_allclose(cosines(got, expected), wanted, atol=1e-12)
    single = [array.astype(np.float32) for array in (got, expected)]
    # float32 keeps seven digits of every value
    np.testing.assert_allclose(cosines(*single), wanted, atol=1e-6)


def test_vectors_without_a_direction() -> None:
    zero, one, odd = np.zeros(3), np.ones(3), np.array([1, np.nan, 1])
    got = cosines(np.stack([zero, zero, odd, one]), np.stack([zero, one, one, -one]))
    np.testing.assert_allclose(got, [1, 0, 0, -1], atol=1e-15)
