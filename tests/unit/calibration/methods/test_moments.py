from __future__ import annotations

import numpy as np
import pytest

from moir_edge.calibration import ActivationObserver
from moir_edge.calibration.methods.moments import SAMPLE_COLUMNS, InputMoments, sample_columns

CHANNELS, TOKENS = 12, 40


def _inputs() -> np.ndarray:
    random = np.random.default_rng(0)
    mixing = random.standard_normal((CHANNELS, CHANNELS))
    return (random.standard_normal((TOKENS, CHANNELS)) @ mixing).astype(np.float32)


def _moments(*, gram: bool) -> InputMoments:
    observer = ActivationObserver(CHANNELS, gram=gram)
    observer.update(_inputs())
    return InputMoments.of(observer)


def _weight() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((CHANNELS, 7)).astype(np.float32)


def test_output_power_is_that_of_the_outputs() -> None:
    expected = np.square(_inputs().astype(np.float64) @ _weight()).sum(axis=1).mean()
    # Float32 products.
    assert _moments(gram=True).output_power(_weight()) == pytest.approx(expected, rel=1e-5)


def test_without_gram_channels_count_as_uncorrelated() -> None:
    squares = np.square(_inputs().astype(np.float64)).mean(axis=0)
    expected = sum(squares[k] * float(w) ** 2 for k in range(CHANNELS) for w in _weight()[k])
    assert _moments(gram=False).output_power(_weight()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gram", [True, False])
def test_division_of_the_input_is_a_division_of_the_weight(gram: bool) -> None:
    factors = np.random.default_rng(2).uniform(0.1, 10, CHANNELS).astype(np.float32)
    moments = _moments(gram=gram)
    divided = moments.divided(factors).output_power(_weight() * factors[:, None])
    assert divided == pytest.approx(moments.output_power(_weight()), rel=1e-5)


@pytest.mark.parametrize("columns", [1, SAMPLE_COLUMNS, SAMPLE_COLUMNS + 1, 1536])
def test_columns_are_sampled_evenly(columns: int) -> None:
    sampled = sample_columns(np.arange(2.0 * columns, dtype=np.float32).reshape(2, columns))
    assert 1 <= sampled.shape[1] <= SAMPLE_COLUMNS
    assert len(set(np.diff(sampled[0]).tolist())) <= 1
    assert columns > SAMPLE_COLUMNS or sampled.shape[1] == columns
