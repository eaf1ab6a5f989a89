"""Quantize a graph given in any form, and leave the original alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import onnx
import onnx_ir as ir

from moir_edge.arguments import text
from moir_edge.calibration.formats import get_format
from moir_edge.calibration.layers import LayerOptions, quantize_layers
from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.summary import QuantizationSummary
from moir_edge.checked import an_onnx_model, checked, maybe, required
from moir_edge.errors import UnsupportedError

__all__ = ["quantize", "require_statistics"]

ModelT = TypeVar("ModelT", onnx.ModelProto, ir.Model)


@checked(model=an_onnx_model, precision=required(text), options=maybe(LayerOptions))
def quantize(
    model: ModelT,
    precision: str,
    *,
    observers: Mapping[str, ActivationObserver] | None = None,
    options: LayerOptions | None = None,
) -> tuple[ModelT, QuantizationSummary]:
    """Return a quantized copy of a model, of the same type, and what became of each weight.

    Args:
        model: Any ONNX model of opset 21 or later with float32 weights; not changed.
        precision: One of `moir_edge.calibration.formats.FORMATS`.
        observers: Statistics of the model's activations from `moir_edge.calibration.observe`, for ``int8`` and ``fp8``.
        options: Block size, ranges, layers to leave out or to give another precision.

    Raises:
        UnsupportedError: Another precision, an opset under 21, or ``int8`` or ``fp8`` without statistics.
    """
    require_statistics(precision, observers)
    copy = ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model.clone()
    summary = quantize_layers(copy, precision, observers=observers, options=options)
    if isinstance(model, onnx.ModelProto):
        return ir.to_proto(copy), summary
    return copy, summary


def require_statistics(precision: str, observers: Mapping[str, ActivationObserver] | None) -> None:
    """Refuse a precision that stores activations without statistics of them.

    Raises:
        UnsupportedError: There are none, or the precision is unknown.
    """
    if get_format(precision).activation and observers is None:
        raise UnsupportedError(
            f"{precision} needs statistics: give observers=observe(model, feeds)"
        )
