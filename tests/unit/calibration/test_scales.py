from __future__ import annotations

import numpy as np
import pytest

from moir_edge.calibration import PerBlock, PerOutputChannel
from moir_edge.calibration.granularity import Granularity
from moir_edge.calibration.scales import QuantizedArray, quantize_array
from moir_edge.errors import DataError

CASES = [(8, PerOutputChannel()), (4, PerBlock(block_size=16)), (4, PerOutputChannel())]


def _weight(rows: int = 64, columns: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def _dequantized(array: QuantizedArray) -> np.ndarray:
    """Multiply integer by scale one weight at a time, as the ONNX text defines DequantizeLinear."""
    rows, columns = array.values.shape
    scale = array.scale.reshape(-1, columns)
    block = rows // scale.shape[0]
    result = np.empty((rows, columns))
    for i in range(rows):
        for j in range(columns):
            result[i, j] = float(array.values[i, j]) * float(scale[i // block, j])
    return result


def _nearest_by_maximum(weight: np.ndarray, block: int, bits: int) -> np.ndarray:
    """Plain round-to-nearest: the scale maps the largest magnitude onto the largest integer."""
    limit = 2 ** (bits - 1) - 1
    result = np.empty(weight.shape)
    for start in range(0, weight.shape[0], block):
        for j in range(weight.shape[1]):
            group = weight[start : start + block, j].astype(np.float64)
            scale = np.abs(group).max() / limit
            result[start : start + block, j] = np.round(group / scale) * scale
    return result


@pytest.mark.parametrize(("bits", "granularity"), CASES)
def test_never_worse_than_round_to_nearest_in_any_group(
    bits: int, granularity: Granularity
) -> None:
    weight = _weight()
    block = granularity.block_rows(weight.shape)
    ours = _dequantized(quantize_array(weight, granularity, bits))
    plain = _nearest_by_maximum(weight, block, bits)

    def group_errors(result: np.ndarray) -> np.ndarray:
        return np.square(result - weight).reshape(-1, block, weight.shape[1]).sum(axis=1)

    # Float32 sums in the search against float64 here: a tie may break by a rounding error.
    assert (group_errors(ours) <= group_errors(plain) * (1 + 1e-5) + 1e-12).all()


def test_four_bits_gain_clearly_over_round_to_nearest() -> None:
    weight = _weight(256, 64)
    ours = quantize_array(weight, PerBlock(block_size=32), 4).relative_error
    plain = np.linalg.norm(_nearest_by_maximum(weight, 32, 4) - weight) / np.linalg.norm(weight)
    # Gaussian weights lose about a tenth of the error to the best clipping.
    assert ours < 0.93 * plain


@pytest.mark.parametrize(("bits", "granularity"), CASES)
def test_reported_error_is_the_error(bits: int, granularity: Granularity) -> None:
    weight = _weight()
    array = quantize_array(weight, granularity, bits)
    truth = np.linalg.norm(_dequantized(array) - weight) / np.linalg.norm(weight)
    # Float32 against float64 arithmetic.
    assert array.relative_error == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize(("bits", "granularity"), CASES)
def test_range_shape_and_sign(bits: int, granularity: Granularity) -> None:
    weight = _weight(seed=3)
    array = quantize_array(weight, granularity, bits)
    lowest, highest = (-8, 7) if bits == 4 else (-127, 127)
    assert array.values.dtype == np.int8
    assert array.values.min() >= lowest
    assert array.values.max() <= highest
    assert array.scale.dtype == np.float32
    assert array.scale.shape == granularity.scale_shape(weight.shape)
    assert (array.scale > 0).all()


def test_integers_times_a_power_of_two_come_back_exactly() -> None:
    values = np.random.default_rng(1).integers(-127, 128, (32, 6))
    values[0] = 127
    weight = (values * 2.0**-6).astype(np.float32)
    array = quantize_array(weight, PerOutputChannel(), 8)
    assert array.relative_error == 0.0
    assert np.array_equal(array.values, values)
    assert np.array_equal(array.scale, np.full(6, 2.0**-6, np.float32))


def test_groups_of_zeros() -> None:
    weight = _weight(32, 4)
    weight[:, 2] = 0
    array = quantize_array(weight, PerOutputChannel(), 8)
    assert not array.values[:, 2].any()
    assert array.scale[2] == 1
    assert quantize_array(np.zeros((32, 4), np.float32), PerBlock(), 4).relative_error == 0


def test_slices_of_columns_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = _weight(32, 40)
    whole = quantize_array(weight, PerBlock(block_size=16), 4)
    monkeypatch.setattr("moir_edge.calibration.scales._SLICE_ELEMENTS", 32 * 7)
    sliced = quantize_array(weight, PerBlock(block_size=16), 4)
    assert np.array_equal(whole.values, sliced.values)
    assert np.array_equal(whole.scale, sliced.scale)


def test_a_nan_is_refused() -> None:
    weight = _weight()
    weight[3, 3] = np.nan
    with pytest.raises(DataError, match="holds a NaN or an infinity"):
        quantize_array(weight, PerOutputChannel(), 8)


@pytest.mark.parametrize(("bits", "granularity"), CASES)
def test_importance_lowers_the_error_that_it_weighs(bits: int, granularity: Granularity) -> None:
    weight = _weight(seed=5)
    importance = np.geomspace(1e-3, 1e3, len(weight))[np.random.default_rng(2).permutation(64)]

    def error(array: QuantizedArray) -> float:
        return float(importance @ np.square(_dequantized(array) - weight).sum(axis=1))

    weighted = quantize_array(weight, granularity, bits, importance=importance)
    assert error(weighted) < error(quantize_array(weight, granularity, bits))


def test_equal_importance_changes_nothing_nor_does_none_at_all() -> None:
    weight, block = _weight(), PerBlock(block_size=16)
    plain = quantize_array(weight, block, 4)
    for importance in (np.full(64, 3.0), np.zeros(64)):
        array = quantize_array(weight, block, 4, importance=importance)
        assert np.array_equal(array.values, plain.values)
        assert np.array_equal(array.scale, plain.scale)


@pytest.mark.parametrize("factor", [2.0**-100, 2.0**100])
@pytest.mark.parametrize(("bits", "granularity"), CASES)
def test_scale_of_the_weight_changes_nothing(
    bits: int, granularity: Granularity, factor: float
) -> None:
    plain = quantize_array(_weight(), granularity, bits)
    scaled = quantize_array(_weight() * np.float32(factor), granularity, bits)
    assert np.array_equal(plain.values, scaled.values)
    assert np.array_equal(plain.scale * np.float32(factor), scaled.scale)
    assert scaled.relative_error == pytest.approx(plain.relative_error)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e30, 1e-30, 1e-44])
def test_constant_weights_stay_finite(value: float) -> None:
    array = quantize_array(np.full((32, 4), value, np.float32), PerBlock(), 4)
    assert (array.scale > 0).all()
    assert np.isfinite(array.scale).all()
    # Below the least normal float32 a scale has no digits left: the weight becomes zero.
    assert array.relative_error < 1e-5 or value == 1e-44


def test_error_falls_with_bits() -> None:
    errors = [quantize_array(_weight(), PerOutputChannel(), bits).relative_error for bits in (4, 8)]
    assert errors[1] < 0.1 * errors[0]
