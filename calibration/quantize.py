"""Quantize a graph given in any form, and leave the original alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import onnx
import onnx_ir as ir

from moir_edge.calibration.summary import QuantizationSummary
from moir_edge.calibration.weights import WeightPrecision, quantize_weights

__all__ = ["quantize"]

ModelT = TypeVar("ModelT", onnx.ModelProto, ir.Model)


def quantize(
    model: ModelT,
    precision: WeightPrecision,
    *,
    block_size: int = 32,
    exclude: Sequence[str] = (),
) -> tuple[ModelT, QuantizationSummary]:
    """Return a quantized copy of a model, of the same type, and what became of each weight.

    Args:
        model: Any ONNX model of opset 21 or later with float32 weights; not changed.
        precision: ``int8-weight-only`` or ``int4``.
        block_size: Rows per scale under ``int4``.
        exclude: Names or patterns of nodes and initializers to leave in float32.

    Raises:
        UnsupportedError: Another precision, or an opset under 21.
    """
    copy = ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model.clone()
    summary = quantize_weights(copy, precision, block_size=block_size, exclude=exclude)
    if isinstance(model, onnx.ModelProto):
        return ir.to_proto(copy), summary
    return copy, summary
