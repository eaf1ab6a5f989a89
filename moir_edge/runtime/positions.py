"""Positions of tokens as the decoder counts them: one rule for every way to run it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["token_positions"]


def token_positions(attention_mask: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Number the real tokens of each row from 0; padding takes 0.

    Args:
        attention_mask: (batch, sequence) int64, 0 at padding.

    Returns:
        (batch, sequence) int64.
    """
    return np.maximum(np.cumsum(attention_mask, axis=1, dtype=np.int64) - 1, 0)
