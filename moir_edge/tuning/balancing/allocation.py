"""Modality weight allocation (MWAM) for any number of branches: frequency ratios in, one weight per branch out."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from moir_edge.arguments import number
from moir_edge.checked import a_tensor, checked, required
from moir_edge.errors import DataError, UnsupportedError, closest
from moir_edge.tuning.balancing.frequency import SIGMA

__all__ = ["MODES", "BranchBalance", "Mode", "allocation_weight", "check_mode", "scale_gradient"]

Mode = Literal["gradient", "loss", "hybrid"]
MODES: tuple[str, ...] = get_args(Mode)

_STEEPNESS = 6.0
_NEUTRAL = 0.7
_MEMORY = 0.5


def check_mode(mode: str) -> None:
    """Refuse an unknown mode.

    Raises:
        UnsupportedError: It is none of `MODES`.
    """
    if mode not in MODES:
        raise UnsupportedError(f"unknown MWAM mode {mode!r}: {closest(mode, MODES)}")


@checked(relative=required(number))
def allocation_weight(relative: float) -> float:
    """Return K = 1.5 − 1/(1 + exp(−6(T − 0.7))), between 0.5 (the branch dominates) and 1.5.

    Args:
        relative: T, the branch's frequency ratio over the mean of all branches.

    Source: arXiv 2602.22644.
    """
    return 1.5 - 1.0 / (1.0 + math.exp(-_STEEPNESS * (relative - _NEUTRAL)))


class BranchBalance:
    """Running frequency ratios of the branches, and the weights derived from them; without parameters.

    F̂ ← ½F̂ + ½F (the first F as it is), T_m = F̂_m / (mean_c F̂_c + σ), K_m by `allocation_weight`.
    """

    def __init__(self) -> None:
        self._running: dict[str, float] = {}

    @property
    def running(self) -> Mapping[str, float]:
        """F̂ of every branch; empty before the first update."""
        return dict(self._running)

    @property
    def weights(self) -> Mapping[str, float]:
        """K of every branch; empty before the first update."""
        if not self._running:
            return {}
        mean = sum(self._running.values()) / len(self._running)
        return {
            name: allocation_weight(value / (mean + SIGMA)) for name, value in self._running.items()
        }

    def update(self, ratios: Mapping[str, float]) -> Mapping[str, float]:
        """Take in the frequency ratios of one step and return the weights K.

        Args:
            ratios: F of every branch, the same names each time; a step with a non-finite one changes nothing.

        Raises:
            DataError: The branches are other ones than before.
        """
        if self._running and set(ratios) != set(self._running):
            raise DataError(
                f"MWAM: got the branches {sorted(ratios)}, expected {sorted(self._running)}; "
                "use one BranchBalance per model"
            )
        if all(math.isfinite(value) for value in ratios.values()):
            for name, value in ratios.items():
                before = self._running.get(name, value)
                self._running[name] = _MEMORY * before + (1 - _MEMORY) * value
        return self.weights

    def state(self) -> dict[str, float]:
        """Return what a resumed run needs, as plain JSON data."""
        return dict(self._running)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            DataError: A ratio is not a finite number of at least 0.
        """
        for name, value in state.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 <= value <= sys.float_info.max:
                raise DataError(
                    f"MWAM: the ratio of {name!r} is {value!r}; expected a number of at least 0"
                )
        self._running = {name: float(value) for name, value in state.items()}


@checked(features=a_tensor)
def scale_gradient(features: Tensor, weight: float | Tensor) -> None:
    """Multiply the gradient that will reach `features` in the next backward pass; the forward pass is not touched.

    Args:
        features: A tensor of the graph; nothing happens to one that needs no gradient.
        weight: K, a number or a tensor that broadcasts to `features`.
    """
    if features.requires_grad:
        features.register_hook(lambda gradient: gradient * weight)  # type: ignore[no-untyped-call]
