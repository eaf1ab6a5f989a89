from __future__ import annotations

import numpy as np
import pytest

from moir_edge.calibration import PerBlock, PerOutputChannel
from moir_edge.calibration.granularity import Granularity
from moir_edge.calibration.methods.gptq import DAMPING, GptqQuantizer
from moir_edge.calibration.methods.moments import InputMoments
from moir_edge.calibration.scales import quantize_array
from moir_edge.errors import DataError

ROWS, COLUMNS, BLOCK = 64, 24, 16


def _weight(seed: int = 0, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, COLUMNS)).astype(np.float32)


def _gram(seed: int = 1, rows: int = ROWS, tokens: int = 400) -> np.ndarray:
    """Return mean x xᵀ of correlated channels of unequal size."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((rows, rows)) * rng.uniform(0.1, 3, rows)
    inputs = rng.standard_normal((tokens, rows)) @ mixing
    result: np.ndarray = inputs.T @ inputs / tokens
    return result


def _moments(gram: np.ndarray) -> InputMoments:
    return InputMoments(second_moment=np.diagonal(gram).copy(), gram=gram)


def _error(weight: np.ndarray, dequantized: np.ndarray, gram: np.ndarray) -> float:
    difference = dequantized.astype(np.float64) - weight
    return float(np.trace(difference.T @ gram @ difference))


def _textbook(weight: np.ndarray, gram: np.ndarray, steps: np.ndarray, bits: int) -> np.ndarray:
    """Algorithm 1 of the paper by the inverse Hessian, one row at a time in float64, rows of large inputs first.

    Args:
        weight: (K, N).
        gram: (K, K).
        steps: (K, N), the scale of each weight.
        bits: Of an integer.
    """
    order = np.argsort(-np.diagonal(gram), kind="stable")
    work = weight.astype(np.float64)[order]
    damped = gram + DAMPING * np.diagonal(gram).mean() * np.eye(len(gram))
    upper = np.linalg.cholesky(np.linalg.inv(damped[order][:, order])).T
    integers = np.empty(weight.shape, int)
    limit = 2 ** (bits - 1) - 1
    lowest = -limit - 1 if bits == 4 else -limit
    for i, row in enumerate(order):
        for j in range(weight.shape[1]):
            step = float(steps[row, j])
            integers[row, j] = int(np.clip(np.round(work[i, j] / step), lowest, limit))
            error = (work[i, j] - integers[row, j] * step) / upper[i, i]
            work[i + 1 :, j] -= error * upper[i, i + 1 :]
    return integers


@pytest.mark.parametrize(
    ("granularity", "bits"), [(PerBlock(block_size=BLOCK), 4), (PerOutputChannel(), 8)]
)
def test_integers_are_those_of_the_textbook(granularity: Granularity, bits: int) -> None:
    weight, gram = _weight(), _gram()
    ours = GptqQuantizer(_moments(gram))(weight, granularity, bits)
    scale = ours.scale.reshape(-1, COLUMNS)
    expected = _textbook(weight, gram, np.repeat(scale, ROWS // len(scale), axis=0), bits)
    # Float32 against float64: a target within 1e-6 of a half step may fall to either side, and moves what follows.
    assert (ours.values == expected).mean() > 0.99


@pytest.mark.parametrize("seed", range(4))
def test_output_error_is_below_round_to_nearest(seed: int) -> None:
    weight, gram = _weight(seed), _gram(seed + 10)
    ours = GptqQuantizer(_moments(gram))(weight, PerBlock(block_size=BLOCK), 4)
    nearest = quantize_array(weight, PerBlock(block_size=BLOCK), 4)
    assert _error(weight, ours.dequantized(), gram) < 0.8 * _error(
        weight, nearest.dequantized(), gram
    )


def test_without_correlation_nothing_is_fed_back() -> None:
    weight = _weight()
    ours = GptqQuantizer(_moments(np.eye(ROWS)))(weight, PerBlock(block_size=BLOCK), 4)
    nearest = quantize_array(weight, PerBlock(block_size=BLOCK), 4)
    # The same scales up to rounding, for one divides by the largest weight first.
    assert (ours.values == nearest.values).mean() > 0.999


def test_error_falls_with_bits() -> None:
    weight, gram = _weight(), _gram()
    quantizer = GptqQuantizer(_moments(gram))
    errors = [
        _error(weight, quantizer(weight, PerOutputChannel(), bits).dequantized(), gram)
        for bits in (4, 8)
    ]
    assert errors[1] < 0.05 * errors[0]


@pytest.mark.parametrize("factor", [2.0**-90, 2.0**90])
def test_scale_of_weight_and_of_activation_change_nothing(factor: float) -> None:
    weight, gram = _weight(), _gram()
    plain = GptqQuantizer(_moments(gram))(weight, PerBlock(block_size=BLOCK), 4)
    scaled = GptqQuantizer(_moments(gram * factor))(
        weight * np.float32(factor), PerBlock(block_size=BLOCK), 4
    )
    assert np.array_equal(plain.values, scaled.values)
    np.testing.assert_allclose(scaled.scale, plain.scale * np.float32(factor), rtol=1e-6)


def test_dead_channels_are_rounded_and_disturb_nobody() -> None:
    weight, gram = _weight(), _gram()
    dead = [3, 17, 40]
    gram[dead] = 0
    gram[:, dead] = 0
    array = GptqQuantizer(_moments(gram))(weight, PerBlock(block_size=BLOCK), 4)
    half_step = np.repeat(array.scale, BLOCK, axis=0) / 2
    inside = np.abs(weight) < 6 * half_step
    error = np.abs(array.dequantized() - weight)
    # Clipped weights aside, a channel that is never used is off by half a step at most, up to rounding.
    assert (error[dead] <= 1.001 * half_step[dead])[inside[dead]].all()


@pytest.mark.parametrize("value", [0.0, 1.0, 1e30, 1e-30])
def test_constant_weights_stay_finite(value: float) -> None:
    weight = np.full((ROWS, COLUMNS), value, np.float32)
    array = GptqQuantizer(_moments(_gram()))(weight, PerBlock(block_size=BLOCK), 4)
    assert np.isfinite(array.scale).all()
    assert (array.scale > 0).all()
    assert np.isfinite(array.dequantized()).all()
    assert array.relative_error < 0.1


def test_few_tokens_leave_a_singular_gram_usable() -> None:
    array = GptqQuantizer(_moments(_gram(tokens=5)))(_weight(), PerBlock(block_size=BLOCK), 4)
    assert np.isfinite(array.scale).all()


def test_a_gram_short_of_positive_is_damped_more() -> None:
    gram = np.ones((ROWS, ROWS)) + np.diag(np.linspace(-0.5, 0.5, ROWS))
    assert np.linalg.eigvalsh(gram)[0] < -DAMPING
    array = GptqQuantizer(_moments(gram))(_weight(), PerBlock(block_size=BLOCK), 4)
    assert np.isfinite(array.dequantized()).all()


def test_what_stands_in_the_way_is_said() -> None:
    gram = _gram()
    assert GptqQuantizer.obstacle(_moments(gram)) == ""
    assert "not gathered" in GptqQuantizer.obstacle(InputMoments(second_moment=np.ones(4)))
    assert "always zero" in GptqQuantizer.obstacle(_moments(np.zeros((4, 4))))
    assert "past the range" in GptqQuantizer.obstacle(_moments(np.full((4, 4), np.inf)))


def test_a_nan_is_refused() -> None:
    weight = _weight()
    weight[1, 1] = np.nan
    with pytest.raises(DataError, match="holds a NaN or an infinity"):
        GptqQuantizer(_moments(_gram()))(weight, PerBlock(block_size=BLOCK), 4)


def test_same_input_same_output() -> None:
    first, second = (
        GptqQuantizer(_moments(_gram()))(_weight(), PerBlock(block_size=BLOCK), 4) for _ in range(2)
    )
    assert np.array_equal(first.values, second.values)
    assert np.array_equal(first.scale, second.scale)
