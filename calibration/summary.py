"""What a quantization pass did to each weight, and why it left some alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["QuantizationSummary", "QuantizedWeight"]


@dataclass(frozen=True, kw_only=True)
class QuantizedWeight:
    """One weight of one node.

    Attributes:
        node: Name of the node that uses it.
        weight: Name of the float initializer.
        shape: Its shape as the node sees it, (K, N) for MatMul.
        precision: ``int8-weight-only``, ``int4``, or ``fp32`` where it was left alone.
        relative_error: ‖w − dequantized‖ / ‖w‖; 0 where it was left alone.
        reason: Why it has another precision than was asked for; empty otherwise.
    """

    node: str
    weight: str
    shape: tuple[int, ...]
    precision: str
    relative_error: float = 0.0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class QuantizationSummary:
    """Every weight that a pass looked at, in graph order.

    Attributes:
        precision: What was asked for.
        block_size: Rows per scale of INT4 weights.
        weights: One entry per node and weight.
    """

    precision: str
    block_size: int
    weights: tuple[QuantizedWeight, ...]

    @property
    def quantized(self) -> tuple[QuantizedWeight, ...]:
        """The weights that are integers now."""
        return tuple(weight for weight in self.weights if weight.precision != "fp32")

    @property
    def left_out(self) -> tuple[QuantizedWeight, ...]:
        """The weights that stayed float."""
        return tuple(weight for weight in self.weights if weight.precision == "fp32")

    @property
    def worst_relative_error(self) -> float:
        """The largest relative error of a weight; 0 if none was quantized."""
        return max((weight.relative_error for weight in self.weights), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON types, for the manifest and the report."""
        return {
            "precision": self.precision,
            "block_size": self.block_size,
            "quantized": len(self.quantized),
            "left_out": len(self.left_out),
            "worst_relative_error": self.worst_relative_error,
            "weights": [asdict(weight) for weight in self.weights],
        }
