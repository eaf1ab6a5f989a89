from __future__ import annotations

import numpy as np
import pytest

from moir_edge.calibration.methods.moments import InputMoments
from moir_edge.calibration.scales import QuantizedArray
from moir_edge.calibration.weight_report import describe_weight

# One block per column: integers 7 and -8 are the ends, 9.2 and -8.6 steps lie past them, -8.4 does not.
WEIGHT = np.array([[9.2, -8.6], [1.0, -8.4], [7.4, 2.0]], np.float32) * np.float32(0.5)
ARRAY = QuantizedArray(
    values=np.array([[7, -8], [1, -8], [7, 2]], np.int8), scale=np.full(2, 0.5, np.float32)
).measured(WEIGHT)


def test_figures_by_hand() -> None:
    figures = describe_weight(WEIGHT, ARRAY, 4)
    assert figures.scale == (0.5, 0.5, 0.5)
    assert figures.clipped_share == pytest.approx(2 / 6)
    noise = 2.2**2 + 0.6**2 + 0.4**2 + 0.4**2
    signal = 9.2**2 + 8.6**2 + 1 + 8.4**2 + 7.4**2 + 4
    assert figures.signal_to_noise_db == pytest.approx(10 * np.log10(signal / noise), rel=1e-5)
    assert figures.output_signal_to_noise_db is None


def test_output_by_hand() -> None:
    inputs = np.random.default_rng(0).standard_normal((50, 3))
    moments = InputMoments(
        second_moment=np.square(inputs).mean(axis=0), gram=inputs.T @ inputs / 50
    )
    error = inputs @ (ARRAY.dequantized() - WEIGHT)
    expected = 10 * np.log10(np.square(inputs @ WEIGHT).sum() / np.square(error).sum())
    found = describe_weight(WEIGHT, ARRAY, 4, moments).output_signal_to_noise_db
    assert found == pytest.approx(expected, rel=1e-4)


def test_zero_points_move_the_range() -> None:
    weight = np.array([[0.0], [15.4], [15.6], [-0.6]], np.float32)
    array = QuantizedArray(
        values=np.array([[2], [15], [15], [1]], np.uint8),
        scale=np.ones(1, np.float32),
        zero_point=np.array([2], np.uint8),
    )
    # With 2 for zero the range goes from -2 to 13.
    assert describe_weight(weight, array, 4).clipped_share == 0.5
    assert array.dequantized()[:, 0].tolist() == [0, 13, 13, -1]


def test_a_weight_without_loss_has_no_ratio() -> None:
    weight = np.array([[1.0], [2.0]], np.float32)
    array = QuantizedArray(values=np.array([[1], [2]], np.int8), scale=np.ones(1, np.float32))
    assert describe_weight(weight, array.measured(weight), 4).signal_to_noise_db is None
