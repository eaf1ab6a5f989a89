"""Second moments of what a weight multiplies: what the error of a layer's output is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moir_edge.calibration.observers import ActivationObserver

__all__ = ["SAMPLE_COLUMNS", "InputMoments", "sample_columns", "sampled_columns"]

SAMPLE_COLUMNS = 256
"""Columns of a weight that stand for all of them where an error is only estimated."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class InputMoments:
    """Moments of an activation x of K channels over the calibration tokens.

    Attributes:
        second_moment: (K,) float64, mean of x².
        gram: (K, K) float64, mean of x xᵀ; None where only the diagonal was gathered.
    """

    second_moment: Floats
    gram: Floats | None = None

    @classmethod
    def of(cls, observer: ActivationObserver) -> InputMoments:
        """Return the moments of what an observer has seen."""
        gram = observer.gram
        if gram is not None:
            gram = gram / max(observer.tokens, 1)
        return cls(second_moment=observer.second_moment, gram=gram)

    def divided(self, factors: npt.NDArray[np.float32]) -> InputMoments:
        """Return the moments of x / factors.

        Args:
            factors: (K,), positive.
        """
        wide = factors.astype(np.float64)
        gram = None if self.gram is None else self.gram / wide[:, None] / wide
        return InputMoments(second_moment=self.second_moment / wide**2, gram=gram)

    def output_power(self, weight: npt.NDArray[np.float32]) -> float:
        """Return the mean of ‖x W‖² over the tokens, tr(Wᵀ G W); channels as uncorrelated without G.

        Args:
            weight: (K, N), a weight or an error of one.
        """
        if self.gram is None:
            return float(
                self.second_moment @ np.einsum("kn,kn->k", weight, weight, dtype=np.float64)
            )
        product = self.gram.astype(np.float32) @ weight
        return max(float(np.einsum("kn,kn->", product, weight, dtype=np.float64)), 0.0)


def sample_columns(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return every n-th column, (K, at most `SAMPLE_COLUMNS`): what an error of the output is estimated from.

    The cost of an output grows with K² N; its columns are much alike.
    """
    return np.ascontiguousarray(weight[:, sampled_columns(weight.shape)])


def sampled_columns(shape: tuple[int, ...]) -> slice:
    """Return which columns of a (K, N) weight `sample_columns` takes."""
    return slice(None, None, -(-shape[1] // SAMPLE_COLUMNS))
