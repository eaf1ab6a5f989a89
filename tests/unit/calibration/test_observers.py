from __future__ import annotations

import numpy as np
import pytest

from moir_edge.calibration.observers import BINS, ActivationObserver
from moir_edge.errors import DataError, ShapeError
from moir_edge.temporary import TemporaryFolder


def _values(seed: int = 0, rows: int = 300, channels: int = 6) -> np.ndarray:
    random = np.random.default_rng(seed)
    spread = np.array([0.01, 0.5, 1, 2, 20, 0.001])[:channels]
    return (random.standard_normal((rows, channels)) * spread).astype(np.float32)


def _observed(*batches: np.ndarray, gram: bool = False) -> ActivationObserver:
    observer = ActivationObserver(batches[0].shape[-1], gram=gram)
    for batch in batches:
        observer.update(batch)
    return observer


def test_histogram_is_numpys_on_the_final_range() -> None:
    values = _values()
    observer = _observed(*np.array_split(values, 7))
    top = 2.0 ** np.ceil(np.log2(np.abs(values).max()))
    expected, _ = np.histogram(np.abs(values), bins=BINS, range=(0, top))
    assert 2.0**observer.exponent == top
    assert np.array_equal(observer.counts, expected)


def test_moments_are_those_of_all_values() -> None:
    values = _values()
    observer = _observed(*np.array_split(values, 5), gram=True)
    exact = values.astype(np.float64)
    assert observer.largest == np.abs(values).max()
    assert observer.tokens == len(values)
    assert np.array_equal(observer.channel_max, np.abs(values).max(axis=0))
    # float64 sums of products of float32
    np.testing.assert_allclose(observer.second_moment, (exact**2).mean(axis=0), rtol=1e-6)
    # the products of a batch are summed in float32
    scale = np.sqrt(np.outer((exact**2).sum(0), (exact**2).sum(0)))
    assert (np.abs(observer.gram - exact.T @ exact) < 1e-5 * scale).all()


@pytest.mark.parametrize("seed", range(5))
def test_order_and_grouping_do_not_matter(seed: int) -> None:
    values = _values(seed)
    shuffled = np.random.default_rng(seed).permutation(values)
    first = _observed(*np.array_split(values, 3))
    second = _observed(*np.array_split(shuffled, 11))
    assert np.array_equal(first.counts, second.counts)
    assert (first.exponent, first.largest) == (second.exponent, second.largest)
    assert np.array_equal(first.channel_max, second.channel_max)


@pytest.mark.parametrize("power", [-20, -3, 1, 17])
def test_scaling_by_a_power_of_two_moves_the_range_alone(power: int) -> None:
    values = _values()
    plain, scaled = _observed(values), _observed(values * np.float32(2.0**power))
    assert np.array_equal(plain.counts, scaled.counts)
    assert scaled.exponent == plain.exponent + power
    assert scaled.bin_width == plain.bin_width * 2.0**power


@pytest.mark.parametrize("value", [4.0, np.nextafter(np.float32(4), np.float32(5)), 3e38, 1e-30])
def test_the_largest_value_lies_in_the_range(value: float) -> None:
    observer = _observed(np.full((3, 2), value, np.float32))
    assert observer.largest == float(np.float32(value)) <= 2.0**observer.exponent
    assert observer.counts.sum() == 6


def test_state_goes_on_where_it_was_taken() -> None:
    first, second = _values(1), _values(2) * 50
    whole = _observed(first, second, gram=True)
    resumed = ActivationObserver.from_state(_observed(first, gram=True).state())
    resumed.update(second)
    for name, array in whole.state().items():
        assert np.array_equal(array, resumed.state()[name]), name


def test_zeros_and_empty_batches() -> None:
    observer = _observed(np.zeros((0, 4), np.float32), np.zeros((2, 4), np.float32))
    assert observer.largest == 0
    assert observer.counts[0] == 8
    assert not observer.second_moment.any()


def test_memory_does_not_grow_with_rows() -> None:
    small, large = _observed(_values(rows=32)), _observed(*[_values(rows=32)] * 16)
    sizes = [sum(array.nbytes for array in item.state().values()) for item in (small, large)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_whole(bad: float) -> None:
    observer = _observed(_values())
    before = {name: array.copy() for name, array in observer.state().items()}
    batch = _values(1)
    batch[3, 2] = bad
    with pytest.raises(DataError, match="holds a NaN or an infinity"):
        observer.update(batch)
    for name, array in observer.state().items():
        assert np.array_equal(array, before[name])


def test_another_width_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"shape \(300, 5\) does not end in 6 channels"):
        _observed(_values(), _values(channels=5))


def test_a_gram_matrix_that_is_put_aside_is_read_back_and_takes_no_memory() -> None:
    observer = ActivationObserver(6, gram=True)
    observer.update(_values())
    before = {name: array.copy() for name, array in observer.state().items()}
    folder = TemporaryFolder()
    observer.put_aside(folder)
    (path,) = folder.path.iterdir()
    assert path.stat().st_size >= before["gram"].nbytes
    assert observer.has_gram
    for name, array in observer.state().items():
        assert np.array_equal(array, before[name])
    with pytest.raises(ValueError, match="were put aside and take in no more values"):
        observer.update(_values())
    again = ActivationObserver.from_state(observer.state())
    assert again.gram is again.gram
    # The files stay for as long as somebody may read them.
    place = folder.path
    del folder
    assert observer.gram is not None
    del observer
    assert not place.exists()
