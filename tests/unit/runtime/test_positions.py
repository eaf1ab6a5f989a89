"""Positions of tokens: against plain counting."""

from __future__ import annotations

import numpy as np
import pytest

from moir_edge.runtime.positions import token_positions


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.bool_])
def test_real_tokens_count_from_zero_and_padding_takes_zero(dtype: type) -> None:
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], dtype)
    positions = token_positions(mask)
    assert positions.dtype == np.int64
    assert positions.tolist() == [
        [0, 0, 0, 1, 2],
        [0, 1, 2, 3, 4],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
