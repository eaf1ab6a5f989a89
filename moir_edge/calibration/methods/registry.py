"""The ways to find integer weights, one row each, and what each layer gets of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from moir_edge.arguments import text
from moir_edge.calibration.granularity import Granularity
from moir_edge.calibration.methods.awq import AwqQuantizer, Migration, migrate
from moir_edge.calibration.methods.gptq import GptqQuantizer
from moir_edge.calibration.methods.hqq import quantize_half_quadratic
from moir_edge.calibration.methods.moments import InputMoments
from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.patterns import WeightUse, is_head
from moir_edge.calibration.rewriting import WeightQuantizer
from moir_edge.calibration.scales import QuantizedArray, quantize_array
from moir_edge.checked import checked, required
from moir_edge.errors import UnsupportedError, closest

__all__ = [
    "METHODS",
    "LayerMethods",
    "MethodChoice",
    "WeightMethod",
    "default_method",
    "get_method",
]


_NO_STATISTICS = "no statistics of the head's input are gathered"


class CalibratedQuantizer(Protocol):
    """Quantizes the weights that one activation multiplies."""

    def __init__(self, moments: InputMoments) -> None:
        """Take the moments of the activation."""

    @staticmethod
    def obstacle(moments: InputMoments) -> str:
        """Return why these moments do not serve, or nothing."""

    def __call__(
        self, weight: npt.NDArray[np.float32], granularity: Granularity, bits: int
    ) -> QuantizedArray:
        """Quantize (K, N) float32."""


@dataclass(frozen=True, kw_only=True)
class WeightMethod:
    """One way to find the integers and scales of a layer.

    Attributes:
        name: As given to `--int4-method`.
        plain: What quantizes a weight without data; None for a method that needs them.
        calibrated: What quantizes the weights of one activation; None for a method without data.
        symmetric: Zero is stored as 0; otherwise there are zero points, which TensorRT does not take.
        migrates: Rows are widened first, see `moir_edge.calibration.methods.awq.migrate`.
    """

    name: str
    plain: WeightQuantizer | None = None
    calibrated: type[CalibratedQuantizer] | None = None
    symmetric: bool = True
    migrates: bool = False

    @property
    def needs_data(self) -> bool:
        """Whether the method uses statistics of the activations."""
        return self.calibrated is not None


METHODS: dict[str, WeightMethod] = {
    method.name: method
    for method in (
        WeightMethod(name="rtn", plain=quantize_array),
        WeightMethod(name="awq", calibrated=AwqQuantizer, migrates=True),
        WeightMethod(name="gptq", calibrated=GptqQuantizer),
        WeightMethod(name="hqq", plain=quantize_half_quadratic, symmetric=False),
    )
}
"""Every method by name."""


@checked(name=required(text))
def get_method(name: str) -> WeightMethod:
    """Return the method of that name.

    Raises:
        UnsupportedError: No such method; the message names the closest one.
    """
    if name not in METHODS:
        raise UnsupportedError(f"unknown int4 method {name!r}: {closest(name, METHODS)}")
    return METHODS[name]


def default_method(*, has_data: bool) -> str:
    """Return the default method, the best by the figures of `docs/quantization-measurements.md`."""
    return "gptq" if has_data else "rtn"


@dataclass(frozen=True, kw_only=True)
class MethodChoice:
    """Method that quantizes one layer's weight.

    Attributes:
        name: The method.
        quantizer: Its function.
        reason: Why it is not the one asked for; empty if it is.
        alpha: Exponent of the migration that was folded into the weight; None for none.
    """

    name: str
    quantizer: WeightQuantizer
    reason: str = ""
    alpha: float | None = None


class LayerMethods:
    """Gives each INT4 layer of a graph its quantizer; where the data do not serve a method, round-to-nearest.

    Args:
        method: What was asked for.
        observers: Statistics by name of the activation.
    """

    def __init__(self, method: WeightMethod, observers: Mapping[str, ActivationObserver]) -> None:
        self._method = method
        self._observers = observers
        self._migrations: dict[str, Migration] = {}
        # Weights of one activation stand side by side: the last one's are kept.
        self._moments: tuple[str, InputMoments | None] = ("", None)
        self._last: tuple[str, type[CalibratedQuantizer], CalibratedQuantizer] | None = None

    def migrate(
        self, graph: ir.Graph, granularity_of: Callable[[WeightUse], Granularity | None]
    ) -> None:
        """Widen rows of the float weights, in place, if the method does that.

        Args:
            graph: A float graph.
            granularity_of: That of a layer whose weight becomes INT4, None for any other.
        """
        if self._method.migrates:
            self._migrations = migrate(graph, self._moments_of, granularity_of)

    def moments(self, activation: str) -> InputMoments | None:
        """Return the moments of an activation as it now is, or None if no data reached it."""
        if self._moments[0] != activation:
            self._moments = (activation, self._moments_of(activation))
        return self._moments[1]

    def _moments_of(self, activation: str) -> InputMoments | None:
        observer = self._observers.get(activation)
        if observer is None or not observer.tokens:
            return None
        moments = InputMoments.of(observer)
        migration = self._migrations.get(activation)
        return moments if migration is None else moments.divided(migration.factors)

    def of(self, use: WeightUse) -> MethodChoice:
        """Return how an INT4 layer is quantized."""
        if self._method.plain is not None:
            return MethodChoice(name=self._method.name, quantizer=self._method.plain)
        quantizer, reason = self._calibrated(use.activation, self._method.calibrated)
        if quantizer is None:
            reason = _NO_STATISTICS if is_head(use.node) else reason
            reason = f"{self._method.name}: {reason}"
            return MethodChoice(name="rtn", quantizer=quantize_array, reason=reason)
        migration = self._migrations.get(use.activation)
        alpha = None if migration is None else migration.alpha
        return MethodChoice(name=self._method.name, quantizer=quantizer, alpha=alpha)

    def of_int8(self, use: WeightUse) -> MethodChoice:
        """Return how an INT8 layer is quantized: errors are fed back where Σ x xᵀ of its input was gathered."""
        quantizer, _ = self._calibrated(use.activation, GptqQuantizer)
        if quantizer is None:
            return MethodChoice(name="rtn", quantizer=quantize_array)
        return MethodChoice(name="gptq", quantizer=quantizer)

    def _calibrated(
        self, activation: str, kind: type[CalibratedQuantizer] | None
    ) -> tuple[CalibratedQuantizer | None, str]:
        """Return the quantizer of an activation's weights, or None and the reason."""
        if self._last is not None and self._last[:2] == (activation, kind):
            return self._last[2], ""
        moments = self.moments(activation)
        if kind is None or moments is None:
            return None, "the calibration data never reached its input"
        if reason := kind.obstacle(moments):
            return None, reason
        self._last = (activation, kind, kind(moments))
        return self._last[2], ""
