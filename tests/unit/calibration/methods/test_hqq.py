from __future__ import annotations

import math

import numpy as np
import pytest

from moir_edge.calibration import PerBlock
from moir_edge.calibration.methods.hqq import quantize_half_quadratic, shrink
from moir_edge.calibration.scales import quantize_array
from moir_edge.errors import DataError

BLOCK = PerBlock(block_size=32)


def _weight(seed: int = 0, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((64, 24)) + shift).astype(np.float32)


def _nearest_with_zero_point(group: np.ndarray) -> tuple[np.ndarray, float]:
    """Round to 16 levels from the least to the greatest weight; returns the result and its squared error."""
    low, high = min(float(group.min()), 0.0), max(float(group.max()), 0.0)
    step = (high - low) / 15
    zero = round(-low / step)
    result = np.array([(min(max(round(w / step + zero), 0), 15) - zero) * step for w in group])
    return result, float(np.square(result - group).sum())


def _by_hand(group: list[float]) -> int:
    """The paper's turns on one group by plain loops; returns the zero point, rounded."""
    unit = max(abs(w) for w in group)
    scaled = [w / unit for w in group]
    low, high = min(*scaled, 0.0), max(*scaled, 0.0)
    step = (high - low) / 15
    zero, beta = -low / step, 10.0
    best, least = zero, math.inf
    for _ in range(20):
        integers = [min(max(round(w / step + zero), 0), 15) for w in scaled]
        errors = [w - step * (q - zero) for w, q in zip(scaled, integers, strict=True)]
        loss = sum(abs(e) for e in errors) / len(errors)
        if loss < least:
            best, least = zero, loss
        kept = []
        for error in errors:
            size = abs(error)
            kept.append(
                math.copysign(max(size - size ** (0.7 - 1) / beta, 0), error) if size else 0.0
            )
        parts = [q - (w - e) / step for q, w, e in zip(integers, scaled, kept, strict=True)]
        zero = sum(parts) / len(parts)
        beta *= 1.01
    return min(max(round(best), 0), 15)


def test_proximal_step_of_the_paper() -> None:
    values = np.array([0.0, 0.01, -0.2, 0.9, -3.0], np.float32)
    expected = [
        math.copysign(max(abs(v) - abs(v) ** (0.7 - 1) / 10.0, 0), v) if v else 0.0
        for v in values.tolist()
    ]
    np.testing.assert_allclose(shrink(values, 10.0), expected, rtol=1e-5)
    assert not shrink(values, 10.0)[:2].any()


def test_zero_points_are_those_of_the_loops() -> None:
    weight = _weight(shift=0.4)
    array = quantize_half_quadratic(weight, BLOCK, 4)
    assert array.zero_point is not None
    solved = plain = 0
    for block in range(2):
        for column in range(24):
            group = weight[block * 32 : block * 32 + 32, column]
            low, high = min(group.min(), 0), max(group.max(), 0)
            zero = int(array.zero_point[block, column])
            solved += zero == _by_hand(group.tolist())
            plain += zero == round(-low / (high - low) * 15)
            assert zero in (_by_hand(group.tolist()), round(-low / (high - low) * 15))
    # The loops' zero point is taken wherever it is better than the plain one; some are the same.
    assert solved > 10


def test_never_worse_than_asymmetric_round_to_nearest() -> None:
    weight = _weight(1, shift=0.5)
    ours = quantize_half_quadratic(weight, BLOCK, 4).dequantized()
    for block in range(2):
        for column in range(24):
            rows = slice(block * 32, block * 32 + 32)
            _, plain = _nearest_with_zero_point(weight[rows, column])
            error = float(np.square(ours[rows, column] - weight[rows, column]).sum())
            # Float32 against float64 arithmetic.
            assert error <= plain * (1 + 1e-4)


def test_zero_points_pay_where_weights_lean_to_one_side() -> None:
    weight = _weight(2, shift=2.0)
    ours = quantize_half_quadratic(weight, BLOCK, 4).relative_error
    assert ours < 0.8 * quantize_array(weight, BLOCK, 4).relative_error


def test_ranges_and_types() -> None:
    array = quantize_half_quadratic(_weight(3), BLOCK, 4)
    assert array.zero_point is not None
    assert array.values.dtype == array.zero_point.dtype == np.uint8
    assert array.values.max() <= 15
    assert array.zero_point.max() <= 15
    assert array.scale.shape == array.zero_point.shape == (2, 24)
    assert (array.scale > 0).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e30, 1e-30])
def test_constant_weights_come_back(value: float) -> None:
    array = quantize_half_quadratic(np.full((32, 4), value, np.float32), BLOCK, 4)
    assert np.isfinite(array.scale).all()
    # One level of 16 is the value itself.
    np.testing.assert_allclose(array.dequantized(), value, rtol=1e-5)


def test_scale_of_the_weight_changes_nothing() -> None:
    plain = quantize_half_quadratic(_weight(), BLOCK, 4)
    scaled = quantize_half_quadratic(_weight() * np.float32(2.0**80), BLOCK, 4)
    assert np.array_equal(plain.values, scaled.values)
    assert np.array_equal(plain.scale * np.float32(2.0**80), scaled.scale)


def test_slices_of_columns_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quantize_half_quadratic(_weight(), BLOCK, 4)
    monkeypatch.setattr("moir_edge.calibration.scales._SLICE_ELEMENTS", 64 * 7)
    sliced = quantize_half_quadratic(_weight(), BLOCK, 4)
    assert np.array_equal(whole.values, sliced.values)


def test_a_nan_is_refused() -> None:
    weight = _weight()
    weight[0, 0] = np.inf
    with pytest.raises(DataError, match="holds a NaN or an infinity"):
        quantize_half_quadratic(weight, BLOCK, 4)
