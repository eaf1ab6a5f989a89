"""Summary of a quantization pass: each weight, its activation, and the reason where it stays float."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from moir_edge.calibration.weight_report import WeightScales
from moir_edge.precisions import FP32

__all__ = ["ActivationScale", "QuantizationSummary", "QuantizedWeight"]


@dataclass(frozen=True, kw_only=True)
class ActivationScale:
    """Scale of a node's first input in 8 bits, with figures from the calibration data.

    Attributes:
        scale: What a stored one stands for.
        clipped_share: Share of the values past the range, in [0, 1].
        signal_to_noise_db: 10 log₁₀(signal / quantization error); None for an activation that was always zero.
        smoothing: Exponent of the SmoothQuant migration that was folded into the weights; None for none.
    """

    scale: float
    clipped_share: float
    signal_to_noise_db: float | None
    smoothing: float | None = None


@dataclass(frozen=True, kw_only=True)
class QuantizedWeight:
    """One weight of one node.

    Attributes:
        node: Name of the node that uses it.
        weight: Name of the float initializer.
        shape: Its shape as the node sees it, (K, N) for MatMul.
        precision: One of `moir_edge.calibration.formats.FORMATS`, or ``fp32`` where it was left alone.
        relative_error: ‖w − dequantized‖ / ‖w‖; 0 where it was left alone.
        reason: Why it has another precision, or another method, than was asked for; empty otherwise.
        method: How its numbers were found: ``rtn``, ``awq``, ``gptq`` or ``hqq``; empty where it was left alone.
        migration: Exponent of the row scales that AWQ folded into it; None for none.
        scales: Its scales and what they cost; None where it was left alone.
        activation: The other operand under ``int8`` and ``fp8``; None where it stays float.
    """

    node: str
    weight: str
    shape: tuple[int, ...]
    precision: str
    relative_error: float = 0.0
    reason: str = ""
    method: str = ""
    migration: float | None = None
    scales: WeightScales | None = None
    activation: ActivationScale | None = None


@dataclass(frozen=True, kw_only=True)
class QuantizationSummary:
    """Every weight that a pass looked at, in graph order.

    Attributes:
        precision: What was asked for.
        method: How scales were found.
        block_size: Rows per scale of weights in blocks; 0 for none.
        weights: One entry per node and weight.
    """

    precision: str
    method: str
    block_size: int
    weights: tuple[QuantizedWeight, ...]

    @property
    def quantized(self) -> tuple[QuantizedWeight, ...]:
        """The weights that are narrow now."""
        return tuple(weight for weight in self.weights if weight.precision != FP32)

    @property
    def left_out(self) -> tuple[QuantizedWeight, ...]:
        """The weights that stayed float."""
        return tuple(weight for weight in self.weights if weight.precision == FP32)

    @property
    def worst_relative_error(self) -> float:
        """The largest relative error of a weight; 0 if none was quantized."""
        return max((weight.relative_error for weight in self.weights), default=0.0)

    @property
    def worst_signal_to_noise_db(self) -> float | None:
        """The least signal to noise of an activation, or None if none is quantized."""
        scales = [weight.activation for weight in self.weights if weight.activation is not None]
        ratios = [scale.signal_to_noise_db for scale in scales]
        return min((ratio for ratio in ratios if ratio is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON types, for the manifest and the report."""
        return {
            "precision": self.precision,
            "method": self.method,
            "block_size": self.block_size,
            "quantized": len(self.quantized),
            "left_out": len(self.left_out),
            "worst_relative_error": self.worst_relative_error,
            "worst_signal_to_noise_db": self.worst_signal_to_noise_db,
            "weights": [_record(weight) for weight in self.weights],
        }


def _record(weight: QuantizedWeight) -> dict[str, Any]:
    """Return one line of the report, as short as it can be: a report has one per layer, and small models are small."""
    fields = asdict(weight)
    scales = fields.pop("scales")
    fields |= scales or {}
    if weight.weight == weight.node:
        del fields["weight"]
    short: dict[str, Any] = _short(fields)
    return short


def _short(value: Any) -> Any:
    """Round figures to four digits and drop what says nothing."""
    if isinstance(value, dict):
        return {name: _short(one) for name, one in value.items() if one not in (None, "")}
    if isinstance(value, tuple):
        return [_short(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
