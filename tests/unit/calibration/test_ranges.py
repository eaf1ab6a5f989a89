from __future__ import annotations

import math

import numpy as np
import pytest

from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.ranges import clipped_share, find_range, signal_to_noise_db
from moir_edge.calibration.settings import CALIBRATION_METHODS, CalibrationMethod
from moir_edge.errors import UnsupportedError

DISTRIBUTIONS = ("normal", "laplace", "student", "one wide channel")


def _values(name: str) -> np.ndarray:
    random = np.random.default_rng(5)
    shape = (2000, 8)
    values = {
        "normal": random.standard_normal(shape),
        "laplace": random.laplace(size=shape),
        "student": random.standard_t(3, size=shape),
        "one wide channel": random.standard_normal(shape) * np.array([40, *[1] * 7]),
    }[name]
    return values.astype(np.float32)


def _observer(values: np.ndarray) -> ActivationObserver:
    observer = ActivationObserver(values.shape[-1])
    observer.update(values)
    return observer


def _quantized(values: np.ndarray, limit: float) -> np.ndarray:
    """Quantize every value on its own, as QuantizeLinear and DequantizeLinear are defined."""
    scale = limit / 127
    return np.clip(np.rint(values.astype(np.float64) / scale), -128, 127) * scale


def _error(values: np.ndarray, limit: float) -> float:
    return float(((values - _quantized(values, limit)) ** 2).sum())


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_minmax_and_percentile_are_numpys(name: str) -> None:
    values = _values(name)
    observer = _observer(values)
    assert find_range(observer, "minmax") == np.abs(values).max()
    expected = np.quantile(np.abs(values), 0.9999, method="inverted_cdf")
    # a histogram places a value within its bin
    assert abs(find_range(observer, "percentile") - expected) <= observer.bin_width


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_is_near_the_best_range_by_real_quantization(name: str) -> None:
    values = _values(name)
    found = _error(values, find_range(_observer(values), "mse"))
    largest = np.abs(values).max()
    best = min(_error(values, largest * step / 400) for step in range(1, 401))
    # The search assumes uniform rounding and sees 256 ranges.
    assert best <= found <= 1.05 * best
    assert found <= 1.01 * _error(values, largest)


def _divergence_by_hand(counts: list[int], end: int) -> float:
    """KL divergence of one candidate in plain loops, after the slides."""
    reference = [float(count) for count in counts[:end]]
    reference[-1] += sum(counts[end:])
    quantized = [0.0] * end
    for level in range(128):
        members = [i for i in range(end) if i * 128 // end == level and counts[i] > 0]
        total = sum(counts[i] for i in range(end) if i * 128 // end == level)
        for i in members:
            quantized[i] = total / len(members)
    all_p, all_q = sum(reference), sum(quantized)
    divergence = 0.0
    for p, q in zip(reference, quantized, strict=True):
        if p > 0:
            divergence += p / all_p * math.log((p / all_p) / max(q / max(all_q, 1), 1e-10))
    return divergence


def test_entropy_is_the_candidate_of_least_divergence() -> None:
    values = _values("laplace")
    observer = _observer(values)
    counts = [int(count) for count in observer.counts]
    used = max(i for i, count in enumerate(counts) if count) + 1
    ends = sorted({int(end) for end in np.linspace(128, used, 256)})
    best = min(ends[::8], key=lambda end: _divergence_by_hand(counts, end))
    found = find_range(observer, "entropy")
    end = min(ends, key=lambda end: abs(end - found / observer.bin_width))
    # Every eighth candidate is checked by hand: none may beat the one that was found.
    assert _divergence_by_hand(counts, end) <= _divergence_by_hand(counts, best)


def test_entropy_cuts_a_long_tail() -> None:
    observer = _observer(_values("student"))
    assert find_range(observer, "entropy") < 0.7 * observer.largest


@pytest.mark.parametrize("method", CALIBRATION_METHODS)
@pytest.mark.parametrize("power", [-12, 9])
def test_ranges_scale_with_the_values(method: CalibrationMethod, power: int) -> None:
    values = _values("laplace")
    factor = np.float32(2.0**power)
    plain, scaled = (
        find_range(_observer(values), method),
        find_range(_observer(values * factor), method),
    )
    assert scaled == plain * factor


@pytest.mark.parametrize("method", CALIBRATION_METHODS)
@pytest.mark.parametrize("value", [1.0, 3.0, 1e37, 1e-37, -7.5])
def test_constant_activations(method: CalibrationMethod, value: float) -> None:
    observer = _observer(np.full((4, 8), value, np.float32))
    limit = find_range(observer, method)
    assert np.isfinite(limit)
    assert limit > 0
    # half a bin of the histogram and half a step of the scale
    assert abs(limit - abs(np.float32(value))) <= observer.bin_width or value == 1e-37


@pytest.mark.parametrize("method", CALIBRATION_METHODS)
def test_zeros_take_the_scale_one(method: CalibrationMethod) -> None:
    assert find_range(_observer(np.zeros((3, 8), np.float32)), method) == 127
    assert find_range(ActivationObserver(8), method) == 127


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_figures_are_those_of_real_quantization(name: str) -> None:
    values = _values(name)
    observer = _observer(values)
    limit = 0.8 * observer.largest
    share = float((np.abs(values) > limit).mean())
    assert clipped_share(observer, limit) == pytest.approx(share, abs=2e-4)
    assert clipped_share(observer, observer.largest) == 0
    signal = float((values.astype(np.float64) ** 2).sum())
    exact = 10 * math.log10(signal / _error(values, limit))
    # Uniform rounding is assumed, which a wide step meets less well.
    assert signal_to_noise_db(observer, limit) == pytest.approx(exact, abs=0.5)


def test_an_unknown_method_names_the_closest() -> None:
    with pytest.raises(UnsupportedError, match="method 'max': did you mean 'minmax'"):
        find_range(_observer(_values("normal")), "max")  # type: ignore[arg-type]
