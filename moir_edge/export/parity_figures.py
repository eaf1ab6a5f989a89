"""Errors of a bundle's outputs against torch's, absolute and relative to the scale of each output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.errors import NotFiniteError
from moir_edge.finite import count_text, is_finite, largest
from moir_edge.precisions import FP32

__all__ = ["ParityFigures"]

Array = npt.NDArray[Any]

_COMPONENTS = {"router scores": "router", "prefill logits": "decoder", "decode logits": "decoder"}


class ParityFigures:
    """Gathers the largest errors by output, and agreement of the greedy token.

    Args:
        precisions: Component name to precision, for messages.

    Attributes:
        sample: Name of the prompt that is compared now, for messages.
    """

    def __init__(self, precisions: Mapping[str, str]) -> None:
        self.sample = ""
        self._precisions = precisions
        self._errors: dict[str, float] = {}
        self._scales: dict[str, float] = {}
        self._greedy: list[npt.NDArray[np.bool_]] = []

    def error(
        self, name: str, got: Array, expected: Array, *, counted: Array | None = None
    ) -> None:
        """Compare one output on one prompt.

        Args:
            name: The output, such as ``vision``.
            got: Of the graph, any shape.
            expected: Torch's, the same shape.
            counted: Broadcast to that shape, False where a difference is none; None counts all.

        Raises:
            NotFiniteError: A value is NaN or infinite.
        """
        self.require_finite(name, got, expected)
        difference = np.abs(np.asarray(got, np.float64) - np.asarray(expected, np.float64))
        if counted is not None:
            difference = np.where(counted, difference, 0.0)
        self._errors[name] = max(self._errors.get(name, 0.0), largest(difference))
        self._scales[name] = max(self._scales.get(name, 0.0), largest(np.abs(expected)))

    def logits(self, name: str, got: Array, expected: Array) -> None:
        """Compare logits, (batch, vocab), and the token that they choose."""
        self.error(name, got, expected)
        self._greedy.append(got.argmax(-1) == expected.argmax(-1))

    def require_finite(self, name: str, got: Array, expected: Array) -> None:
        """Refuse values that no comparison holds for.

        Raises:
            NotFiniteError: Names the side, the output and the prompt.
        """
        if not is_finite(expected):
            raise NotFiniteError(
                f"{name}: {count_text(expected)} in torch itself on the prompt {self.sample!r}; nothing was "
                "written; the checkpoint is damaged, check how it was trained or converted"
            )
        if not is_finite(got):
            component = _COMPONENTS.get(name, name)
            precision = self._precisions.get(component, FP32)
            raise NotFiniteError(
                f"{name}: {count_text(got)} in the {precision} graph on the prompt {self.sample!r}, torch's are "
                f"finite; nothing was written{_remedy(component, precision)}"
            )

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain JSON data, see `moir_edge.export.parity.measure_parity`."""
        # Where torch gives nothing but zeros there is no scale: the absolute error itself stands.
        relative = {
            name: error / (self._scales[name] or 1.0) for name, error in self._errors.items()
        }
        return {
            "max_abs_error": self._errors,
            "max_rel_error": relative,
            "reference_scale": self._scales,
            "greedy_agreement": float(np.concatenate(self._greedy).mean()),
        }


def _remedy(component: str, precision: str) -> str:
    return "" if precision == FP32 else f"; export {component} in fp32"
