from __future__ import annotations

import numpy as np
import pytest

from moir_edge.calibration.floats import quantize_float
from moir_edge.calibration.granularity import PerBlock, PerOutputChannel
from moir_edge.calibration.scales import QuantizedArray
from moir_edge.errors import DataError, ShapeError

CHANNEL, BLOCKS = PerOutputChannel(), PerBlock(block_size=16)
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def _weight(seed: int = 0, rows: int = 64, columns: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def _restored(array: QuantizedArray) -> np.ndarray:
    """Multiply out by the definition of `DequantizeLinear`, one weight at a time."""
    rows, columns = array.values.shape
    scale = array.scale.reshape(-1, columns).astype(np.float64)
    block = rows // len(scale)
    outer = 1.0 if array.outer_scale is None else array.outer_scale
    restored = np.empty((rows, columns))
    for row in range(rows):
        for column in range(columns):
            step = scale[row // block, column] * outer
            restored[row, column] = float(array.values[row, column]) * step
    return restored


def _quantize(weight: np.ndarray, bits: int) -> QuantizedArray:
    return quantize_float(weight, CHANNEL if bits == 8 else BLOCKS, bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_error_is_that_of_what_is_stored(bits: int) -> None:
    weight = _weight()
    array = _quantize(weight, bits)
    error = np.linalg.norm(weight - _restored(array)) / np.linalg.norm(weight)
    assert array.relative_error == pytest.approx(error, rel=1e-5)
    # Half a step of three bits of mantissa at most, of one bit with a scale of its own per 16.
    assert 0 < error < (2**-4 if bits == 8 else 0.12)


def test_eight_bits_put_the_largest_of_a_column_on_448() -> None:
    weight = _weight()
    array = _quantize(weight, 8)
    np.testing.assert_allclose(array.scale, np.abs(weight).max(axis=0) / 448, rtol=1e-6)
    assert (np.abs(array.values.astype(np.float64)).max(axis=0) == 448).all()


def test_no_scale_of_a_block_near_the_chosen_one_is_better() -> None:
    weight = _weight(columns=3)
    array = _quantize(weight, 4)
    blocks = weight.reshape(4, 16, 3).astype(np.float64)
    grid = np.array([-x for x in E2M1[:0:-1]] + E2M1)
    # E4M3 numbers around every block's largest weight over 6, written out: 8 per power of two.
    scales = np.array([(1 + m / 8) * 2.0**e for e in range(-6, 9) for m in range(8)][:-1])
    own = ((_restored(array) - weight) ** 2).reshape(4, 16, 3).sum(axis=1)
    for block in range(4):
        for column in range(3):
            values = blocks[block, :, column] / array.outer_scale
            near = scales[np.abs(np.log2(scales * 6 / np.abs(values).max())) < 0.2]
            for scale in near:
                nearest = grid[np.abs(values[:, None] / scale - grid).argmin(axis=1)] * scale
                error = ((nearest - values) ** 2).sum() * array.outer_scale**2
                assert own[block, column] <= error * (1 + 1e-5)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("exponent", [-6, 3, 20])
def test_a_power_of_two_goes_into_the_scale(bits: int, exponent: int) -> None:
    one, other = _quantize(_weight(), bits), _quantize(_weight() * np.float32(2.0**exponent), bits)
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(_restored(one) * 2.0**exponent, _restored(other))
    assert one.relative_error == pytest.approx(other.relative_error, rel=1e-6)


def test_the_outer_scale_is_a_power_of_two_and_the_blocks_scales_are_used_whole() -> None:
    array = _quantize(_weight(), 4)
    assert array.outer_scale is not None
    assert np.log2(array.outer_scale) % 1 == 0
    assert 200 < float(array.scale.astype(np.float32).max()) <= 448


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-7, 1.0, 1e30])
def test_odd_channels_give_numbers(bits: int, size: float) -> None:
    weight = _weight(columns=5)
    weight[:, 0], weight[:, 1], weight[:, 2] = 0, size, -size
    weight[16:32, 3] = 0
    array = _quantize(weight, bits)
    restored = _restored(array)
    assert np.isfinite(restored).all()
    assert np.isfinite(array.relative_error)
    assert (array.scale.astype(np.float32) > 0).all()
    assert (restored[:, 0] == 0).all()
    assert (restored[16:32, 3] == 0).all()
    if size >= 1:
        np.testing.assert_allclose(restored[:, 1], size, rtol=2**-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_nothing_at_all(bits: int) -> None:
    array = _quantize(np.zeros((32, 4), np.float32), bits)
    assert array.relative_error == 0
    assert not _restored(array).any()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(bits: int, bad: float) -> None:
    weight = _weight()
    weight[3, 3] = bad
    with pytest.raises(DataError, match="holds a NaN or an infinity"):
        _quantize(weight, bits)


def test_rows_that_are_no_blocks_are_refused() -> None:
    with pytest.raises(ShapeError, match="no multiple of the block size 16"):
        _quantize(_weight(rows=40), 4)
