"""The frequency ratio against SciPy's cosine transform, written out patch by patch."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch

from moir_edge.errors import ShapeError
from moir_edge.tuning.balancing.frequency import SIGMA, cosine_basis, frequency_ratio


def _reference(planes: np.ndarray, rows: list[int]) -> float:
    """Mean over the patches that hold a counting row, float64."""
    ratios = []
    for plane, count in zip(planes.astype(np.float64), rows, strict=True):
        height, width = (-(-size // 8) * 8 for size in plane.shape)
        filled = np.zeros((height, width))
        filled[:count, : plane.shape[1]] = plane[:count]
        for top in range(0, -(-count // 8) * 8, 8):
            for left in range(0, width, 8):
                spectrum = scipy.fft.dctn(filled[top : top + 8, left : left + 8], norm="ortho")
                low, high = spectrum[:2, :2], spectrum[6:, 6:][::-1, ::-1]
                ratios.append(np.abs(low / (np.abs(high) + SIGMA)).sum())
    return float(np.mean(ratios))


def test_basis_is_scipys_orthonormal_transform() -> None:
    values = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    ours = (cosine_basis(8) @ torch.from_numpy(values)).numpy()
    # float32 sums of eight products
    np.testing.assert_allclose(ours, scipy.fft.dct(values, norm="ortho", axis=0), atol=1e-6)


def test_ratio_of_padded_token_planes() -> None:
    rng = np.random.default_rng(1)
    planes = rng.normal(size=(3, 19, 12)).astype(np.float32)
    rows = [19, 3, 0]
    valid = torch.arange(19)[None] < torch.tensor(rows)[:, None]
    ours = float(frequency_ratio(torch.from_numpy(planes), valid))
    # a small high frequency, float32 against float64, is magnified by the division
    assert ours == pytest.approx(_reference(planes, rows), rel=1e-4)


def test_smooth_planes_have_a_higher_ratio_than_noise() -> None:
    noise = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(2))
    ramp = torch.linspace(0, 1, 16)[:, None] + torch.linspace(0, 1, 16) + 0.01 * noise
    assert frequency_ratio(ramp) > 10 * frequency_ratio(noise)


def test_nothing_to_measure_is_zero_and_carries_no_gradient() -> None:
    planes = torch.ones(1, 8, 8, requires_grad=True)
    assert float(frequency_ratio(planes, torch.zeros(1, 8, dtype=torch.bool))) == 0.0
    assert not frequency_ratio(planes).requires_grad


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ShapeError, match=r"got planes \(8, 8\)"):
        frequency_ratio(torch.zeros(8, 8))


def test_ratio_is_float32_under_autocast() -> None:
    planes = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 16, 24)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = frequency_ratio(planes)
    assert torch.equal(cast, frequency_ratio(planes))
