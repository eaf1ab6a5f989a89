"""What holds of any activation and weight: more bits never lose more, units do not matter, and nothing becomes a NaN."""

from __future__ import annotations

import numpy as np
import pytest

from moir_edge.calibration import PerOutputChannel
from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.ranges import clipped_share, find_range, signal_to_noise_db
from moir_edge.calibration.scales import quantize_array
from moir_edge.calibration.settings import CALIBRATION_METHODS, CalibrationMethod

CHANNELS = 16
KINDS = ("normal", "heavy", "wide channel", "constant", "huge", "tiny", "one value", "half empty")


def _activation(kind: str, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.standard_normal((500, CHANNELS))
    if kind == "heavy":
        values = random.standard_t(2, size=values.shape)
    elif kind == "wide channel":
        values[:, 3] *= 1e4
    elif kind == "constant":
        values[:] = -2.5
    elif kind == "huge":
        values *= 1e37 / np.abs(values).max()
    elif kind == "tiny":
        values *= 1e-30
    elif kind == "one value":
        values[:] = 0
        values[7, 7] = 3
    elif kind == "half empty":
        values[:, ::2] = 0
    return values.astype(np.float32)


def _observer(values: np.ndarray) -> ActivationObserver:
    observer = ActivationObserver(values.shape[-1])
    observer.update(values)
    return observer


def _error(values: np.ndarray, limit: float, bits: int) -> float:
    """Relative error of symmetric rounding with the range that was found, one value at a time in float64."""
    levels = 2 ** (bits - 1) - 1
    step = limit / levels
    exact = values.astype(np.float64)
    rounded = np.clip(np.rint(exact / step), -levels, levels) * step
    return float(np.linalg.norm(exact - rounded) / np.linalg.norm(exact))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", CALIBRATION_METHODS)
def test_a_range_is_positive_finite_and_within_the_values(
    kind: str, method: CalibrationMethod
) -> None:
    observer = _observer(_activation(kind))
    limit = find_range(observer, method)
    assert 0 < limit <= max(observer.largest, 127 * float(np.finfo(np.float32).tiny))
    assert np.isfinite(np.float32(limit / 127))
    assert np.float32(limit / 127) > 0
    assert 0 <= clipped_share(observer, limit) <= 1
    assert not np.isnan(signal_to_noise_db(observer, limit))


@pytest.mark.parametrize("kind", ["normal", "heavy", "wide channel", "half empty"])
@pytest.mark.parametrize("seed", range(3))
def test_more_bits_never_lose_more(kind: str, seed: int) -> None:
    values = _activation(kind, seed)
    limit = find_range(_observer(values), "minmax")
    errors = [_error(values, limit, bits) for bits in range(2, 13)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_four_bits_never_beat_eight_on_a_weight(kind: str) -> None:
    weight = _activation(kind)
    if kind == "huge":
        weight = weight * np.float32(
            1e-20
        )  # squares of 1e37 pass float32, which no weight comes near
    if kind == "tiny":
        weight = weight * np.float32(1e20)
    four, eight = (quantize_array(weight, PerOutputChannel(), bits) for bits in (4, 8))
    for array in (four, eight):
        assert np.isfinite(array.scale).all()
        assert (array.scale > 0).all()
        assert np.isfinite(array.relative_error)
    assert eight.relative_error <= four.relative_error


UNITLESS = [
    (kind, method)
    for kind in ("normal", "heavy", "half empty")
    for method in CALIBRATION_METHODS
    # The divergence is flat over a long tail: which range is least hangs on where the bins begin.
    if (kind, method) != ("heavy", "entropy")
]


@pytest.mark.parametrize(("kind", "method"), UNITLESS)
@pytest.mark.parametrize("factor", [0.3, 7.0, 1e5])
def test_units_do_not_matter(kind: str, method: CalibrationMethod, factor: float) -> None:
    """Under any factor, not only powers of two, whose bins coincide: the error relative to the signal stays."""
    values = _activation(kind)
    scaled = values * np.float32(factor)
    plain = _error(values, find_range(_observer(values), method), 8)
    other = _error(scaled, find_range(_observer(scaled), method), 8)
    # Other bins of the histogram and other candidates of the search: the optimum is flat.
    assert other == pytest.approx(plain, rel=0.15)


@pytest.mark.parametrize("factor", [0.3, 7.0, 1e5])
def test_units_do_not_matter_to_weights(factor: float) -> None:
    weight = _activation("heavy")
    plain = quantize_array(weight, PerOutputChannel(), 8)
    scaled = quantize_array(weight * np.float32(factor), PerOutputChannel(), 8)
    # rounding of the products, which may turn an integer by one
    assert scaled.relative_error == pytest.approx(plain.relative_error, rel=1e-3)
    np.testing.assert_allclose(scaled.scale, plain.scale * factor, rtol=1e-3)


def test_a_channel_that_is_empty_or_huge_leaves_the_moments_of_the_others() -> None:
    values = _activation("normal")
    values[:, 0], values[:, 1] = 0, np.float32(3e37)
    observer = _observer(values)
    assert (observer.channel_max[:2] == [0, np.float32(3e37)]).all()
    exact = (values[:, 2:].astype(np.float64) ** 2).mean(axis=0)
    np.testing.assert_allclose(observer.second_moment[2:], exact, rtol=1e-6)
    assert np.isfinite(observer.second_moment).all()
