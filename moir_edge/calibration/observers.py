"""Streaming statistics of one activation: what every choice of a scale needs, in memory that no number of rows changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.arguments import switch
from moir_edge.calibration.aside import StoredArray
from moir_edge.checked import checked, size
from moir_edge.errors import DataError, ShapeError
from moir_edge.finite import count_text, is_finite
from moir_edge.temporary import TemporaryFolder

__all__ = ["BINS", "ActivationObserver"]

BINS = 4096
"""Bins of the histogram of |x|; at least half of them hold values, since the range is the next power of two."""

# The least range of a histogram, 2**-40: what is smaller is zero to any 8-bit scale, and denormals stay out of it.
_LEAST_EXPONENT = -40
# The range of float32.
_MOST_EXPONENT = 128
# Whole numbers are exact up to here.
_MOST_TOKENS = 1 << 53
# Sums of squares are rounded: a part in 2**53 for each value.
_ROUNDING = 1 + 1e-6

Floats = npt.NDArray[np.float32]


class ActivationObserver:
    """Gathers a histogram of magnitudes and moments per channel of an activation (…, channels).

    The histogram's range is a power of two. When a larger value comes the range doubles and bins merge in pairs, whose
    edges coincide: the result is the same for every order and grouping of the same values. The moments are summed in
    float64, so that another grouping moves them by rounding only.

    Args:
        channels: Length of the last axis.
        gram: Keep Σ x xᵀ too, (channels, channels), which output errors of a weight are computed from.

    Attributes:
        counts: (BINS,) int64, values by |x|.
        exponent: The histogram covers [0, 2**exponent].
        largest: Greatest |x| so far.
        tokens: Vectors of length `channels` so far.
        channel_max: (channels,) float32, greatest |x| of each.
        channel_square: (channels,) float64, Σ x² of each.
        gram: (channels, channels) float64, or None; read from disk at each look once it is put aside.
    """

    @checked(channels=size, gram=switch)
    def __init__(self, channels: int, *, gram: bool = False) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.exponent = _LEAST_EXPONENT
        self.largest = 0.0
        self.tokens = 0
        self.channel_max = np.zeros(channels, np.float32)
        self.channel_square = np.zeros(channels, np.float64)
        self.gram = np.zeros((channels, channels), np.float64) if gram else None
        self._stored: StoredArray | None = None

    @property
    def gram(self) -> npt.NDArray[np.float64] | None:
        """Σ x xᵀ, (channels, channels)."""
        return self._gram if self._stored is None else self._stored.read()

    @gram.setter
    def gram(self, gram: npt.NDArray[np.float64] | None) -> None:
        self._gram, self._stored = gram, None

    @property
    def has_gram(self) -> bool:
        """Whether Σ x xᵀ is kept, in memory or on disk."""
        return self._gram is not None or self._stored is not None

    def put_aside(self, folder: TemporaryFolder) -> None:
        """Keep Σ x xᵀ, if there is one, on disk rather than in memory; no further values can be taken in.

        Raises:
            OSError: The disk is full or not writable.
        """
        if self._gram is not None:
            self._stored = StoredArray(self._gram, folder)
            self._gram = None

    @property
    def bin_width(self) -> float:
        """Width of one bin."""
        return 2.0**self.exponent / BINS

    @property
    def second_moment(self) -> npt.NDArray[np.float64]:
        """Mean of x² per channel, (channels,)."""
        return self.channel_square / max(self.tokens, 1)

    def update(self, values: npt.NDArray[Any]) -> None:
        """Take in one batch, (…, channels) float; it may be empty.

        Raises:
            DataError: A value is NaN or infinite; nothing is taken in then.
            ShapeError: The last axis has another length.
        """
        if self._stored is not None:
            raise ValueError(
                "the statistics of an activation were put aside and take in no more values"
            )
        if values.ndim == 0 or values.shape[-1] != len(self.channel_max):
            raise ShapeError(
                f"an activation of shape {values.shape} does not end in {len(self.channel_max)} channels"
            )
        rows = np.ascontiguousarray(values, np.float32).reshape(-1, len(self.channel_max))
        if not rows.size:
            return
        magnitudes = np.abs(rows)
        channel_max = magnitudes.max(axis=0)
        largest = float(channel_max.max())
        if not np.isfinite(largest):
            raise DataError("an activation holds a NaN or an infinity")
        self._widen(largest)
        self.largest = max(self.largest, largest)
        self.tokens += len(rows)
        self.counts += _histogram(magnitudes, self.exponent)
        self.channel_max = np.maximum(self.channel_max, channel_max)
        self.channel_square += np.einsum("tc,tc->c", rows, rows, dtype=np.float64)
        if self._gram is not None:
            self._gram += rows.T @ rows

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything as arrays, for `from_state`."""
        state: dict[str, npt.NDArray[Any]] = {
            "counts": self.counts,
            "scalars": np.array([self.exponent, self.largest, self.tokens], np.float64),
            "channel_max": self.channel_max,
            "channel_square": self.channel_square,
        }
        gram = self.gram
        return state if gram is None else {**state, "gram": gram}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]]) -> ActivationObserver:
        """Return an observer that goes on where `state` was taken.

        Raises:
            DataError: The state holds NaN or infinity, or no values can have led to it.
        """
        for field, array in state.items():
            if not is_finite(array):
                raise DataError(f"{field}: {count_text(array)}")
        observer = cls(len(state["channel_max"]))
        observer.counts = np.array(state["counts"], np.int64)
        exponent, largest, tokens = state["scalars"]
        observer.exponent, observer.largest, observer.tokens = (
            int(exponent),
            float(largest),
            int(tokens),
        )
        observer.channel_max = np.array(state["channel_max"], np.float32)
        observer.channel_square = np.array(state["channel_square"], np.float64)
        observer.gram = np.array(state["gram"], np.float64) if "gram" in state else None
        if [observer.exponent, observer.tokens] != [exponent, tokens] or tokens > _MOST_TOKENS:
            raise DataError("scalars: the exponent and the number of tokens must be whole")
        observer._require_possible()
        return observer

    def _require_possible(self) -> None:
        """Raise `DataError` for statistics that contradict each other."""
        squares = self.channel_max.astype(np.float64) ** 2 * self.tokens
        values = self.tokens * len(self.channel_max)
        contradictions = {
            "counts: a number is negative": int(self.counts.min()) < 0,
            "counts: their sum is not the number of values": sum(self.counts.tolist()) != values,
            "channel_max: a magnitude is negative": bool((self.channel_max < 0).any()),
            "scalars: the largest value is not that of channel_max": self.largest
            != float(self.channel_max.max(initial=0)),
            "scalars: the exponent does not fit the largest value": not (
                _LEAST_EXPONENT <= self.exponent <= _MOST_EXPONENT
                and self.largest <= 2.0**self.exponent
            ),
            "channel_square: a sum is negative": bool((self.channel_square < 0).any()),
            "channel_square: a sum is above what channel_max allows": bool(
                (self.channel_square > squares * _ROUNDING).any()
            ),
            "gram: a sum of squares is negative": self.gram is not None
            and bool((self.gram.diagonal() < 0).any()),
        }
        for text, holds in contradictions.items():
            if holds:
                raise DataError(text)

    def _widen(self, largest: float) -> None:
        """Double the range until it holds `largest`, merging bins in pairs."""
        needed = int(np.ceil(np.log2(largest))) if largest > 0 else _LEAST_EXPONENT
        # log2 rounds: a value just above a power of two may come out as that power.
        needed += largest > 2.0**needed
        if needed <= self.exponent:
            return
        factor = 2 ** min(needed - self.exponent, BINS.bit_length() - 1)
        merged = self.counts.reshape(-1, factor).sum(axis=1)
        self.counts = np.zeros(BINS, np.int64)
        self.counts[: len(merged)] = merged
        self.exponent = needed


def _histogram(magnitudes: Floats, exponent: int) -> npt.NDArray[np.int64]:
    """Count magnitudes in [0, 2**exponent] by bin; the upper end belongs to the last one."""
    # A product by a power of two is exact, so a value lies in the same bin whichever batch it comes in.
    scaled = magnitudes.reshape(-1) * np.float32(2.0 ** (BINS.bit_length() - 1 - exponent))
    # The type that bincount works in: any other it would copy.
    counts = np.bincount(scaled.astype(np.intp), minlength=BINS + 1)
    counts[BINS - 1] += counts[BINS]
    return counts[:BINS]
