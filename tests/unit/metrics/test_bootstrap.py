from __future__ import annotations

import math

import numpy as np
import pytest

from moir_edge.errors import DataError, NotFiniteError
from moir_edge.metrics.bootstrap import mean_interval, ratio_interval


def test_mean_interval_is_close_to_the_normal_one() -> None:
    scores = np.random.default_rng(1).random(400)
    interval = mean_interval(scores.tolist())
    half = 1.96 * scores.std() / np.sqrt(400)
    assert interval.value == pytest.approx(scores.mean(), abs=1e-12)  # the same sum
    # 1,000 resamples place a 2.5 % quantile to about a tenth of the half width.
    assert interval.low == pytest.approx(scores.mean() - half, abs=0.2 * half)
    assert interval.high == pytest.approx(scores.mean() + half, abs=0.2 * half)
    assert mean_interval(scores.tolist()) == interval


def test_paired_ratio_is_tighter_than_its_parts() -> None:
    reference = np.random.default_rng(2).random(200)
    interval = ratio_interval((0.9 * reference).tolist(), reference.tolist())
    assert interval is not None
    # every resample has the same ratio, so the interval has no width
    assert (interval.low, interval.value, interval.high) == pytest.approx((0.9,) * 3, abs=1e-12)


def test_undefined_cases() -> None:
    assert ratio_interval([1.0, 0.0], [0.0, 0.0]) is None
    with pytest.raises(DataError, match="at least one score"):
        mean_interval([])
    with pytest.raises(DataError, match="at least one row"):
        ratio_interval([], [])
    some = ratio_interval([1.0, 1.0], [0.0, 1.0])
    assert some is not None
    assert some.value == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_have_no_interval(bad: float) -> None:
    message = r"^scores: 1 of \d values is NaN or infinite; they have no mean and no interval$"
    with pytest.raises(NotFiniteError, match=message):
        mean_interval([1.0, bad, 0.5])
    with pytest.raises(NotFiniteError, match=message):
        ratio_interval([1.0, bad], [1.0, 1.0])
    with pytest.raises(NotFiniteError, match=message):
        ratio_interval([1.0, 1.0], [bad, 1.0])
