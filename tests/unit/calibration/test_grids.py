from __future__ import annotations

import numpy as np
import pytest

from moir_edge.calibration.grids import E2M1, E4M3, INT8, Grid

FLOATS = [(E4M3, 4, 3, 7), (E2M1, 2, 1, 1)]


def _numbers(exponent_bits: int, mantissa_bits: int, bias: int) -> list[float]:
    """Every positive number of a float without infinities, by the definition of its bits, smallest first."""
    numbers = []
    for code in range(2 ** (exponent_bits + mantissa_bits)):
        exponent, fraction = divmod(code, 2**mantissa_bits)
        share = fraction / 2**mantissa_bits
        numbers.append(
            (1 + share) * 2.0 ** (exponent - bias) if exponent else share * 2.0 ** (1 - bias)
        )
    # E4M3's last code is its NaN.
    return numbers[:-1] if exponent_bits == 4 else numbers


def test_the_numbers_of_the_published_formats() -> None:
    assert _numbers(2, 1, 1) == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    e4m3 = _numbers(4, 3, 7)
    assert (len(e4m3), e4m3[1], e4m3[8], e4m3[-1]) == (127, 2.0**-9, 2.0**-6, 448)


@pytest.mark.parametrize(("grid", "exponent", "mantissa", "bias"), FLOATS)
def test_rounding_is_to_the_nearest_and_ties_go_to_even(
    grid: Grid, exponent: int, mantissa: int, bias: int
) -> None:
    numbers = np.array(_numbers(exponent, mantissa, bias))
    middles = (numbers[1:] + numbers[:-1]) / 2
    values = np.concatenate(
        [numbers, middles, np.random.default_rng(0).uniform(0, grid.largest, 500)]
    )
    values = np.concatenate([values, -values]).astype(np.float32)
    distance = np.abs(np.abs(values)[:, None].astype(np.float64) - numbers)
    nearest = distance.min(axis=1, keepdims=True)
    # of two equally near, the one whose code is even
    even = np.where(distance == nearest, np.arange(len(numbers)) % 2, 2).argmin(axis=1)
    expected = np.copysign(numbers[even], values)
    np.testing.assert_array_equal(grid.round(values).astype(np.float64), expected)
    np.testing.assert_array_equal(grid.level(np.abs(values).astype(np.float64)), even)
    assert grid.levels == len(numbers)


@pytest.mark.parametrize("grid", [E4M3, E2M1, INT8])
def test_what_is_past_the_end_saturates(grid: Grid) -> None:
    values = np.array([grid.largest * 1.07, -grid.largest * 1e6, 1e38], np.float32)
    rounded = grid.round(values).astype(np.float64)
    assert rounded.tolist() == [grid.largest, -grid.largest, grid.largest]
    assert grid.level(values[[0, 2]].astype(np.float64)).tolist() == [grid.levels - 1] * 2


@pytest.mark.parametrize(("grid", "exponent", "mantissa", "bias"), FLOATS)
def test_step_is_the_distance_to_the_next_number(
    grid: Grid, exponent: int, mantissa: int, bias: int
) -> None:
    numbers = np.array(_numbers(exponent, mantissa, bias))
    np.testing.assert_array_equal(grid.step(numbers[:-1]), np.diff(numbers))


def test_integers_are_a_step_apart() -> None:
    assert INT8.step(np.array([0.0, 3.3, 127])).tolist() == [1, 1, 1]
    assert INT8.round(np.array([-2.5, 0.4, 126.6], np.float32)).tolist() == [-2, 0, 127]
