"""The one pass that quantizes a traced graph, layer by layer, to standard QDQ.

Only standard operators of opset 21 are used, of opset 23 where a weight is a float of four bits, so one file serves ONNX Runtime and TensorRT. TensorRT takes an integer
constant only directly before its `DequantizeLinear`, and ONNX Runtime fuses only `DequantizeLinear` → `MatMul` on a
(K, N) weight: both decide the forms below.

- MatMul or Gemm on a weight: what the layer's format says, see `moir_edge.calibration.formats`. Products of two activations
  (attention) stay float.
- A token table (Gather by a graph input): INT8, one scale per token, kept as (hidden, vocabulary). A head that shares the
  table reads the very same bytes as its (K, N) weight, so embedding and head are stored once.
- Everything else stays float: norms, position tables, convolutions, small weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import onnx_ir as ir

from moir_edge.calibration.activations import ActivationScales
from moir_edge.calibration.choices import choose_layer
from moir_edge.calibration.floats import quantize_float
from moir_edge.calibration.formats import FORMATS, LayerFormat, get_format
from moir_edge.calibration.granularity import Granularity
from moir_edge.calibration.methods.registry import LayerMethods, MethodChoice, get_method
from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.options import LayerOptions
from moir_edge.calibration.patterns import WeightUse, find_weight_uses
from moir_edge.calibration.rewriting import GraphRewriter, WeightQuantizer, require_opset
from moir_edge.calibration.summary import ActivationScale, QuantizationSummary, QuantizedWeight
from moir_edge.calibration.weight_report import describe_weight
from moir_edge.precisions import FP32, INT4, INT8

__all__ = ["LayerOptions", "quantize_layers"]


def quantize_layers(
    model: ir.Model,
    precision: str,
    *,
    options: LayerOptions | None = None,
    observers: Mapping[str, ActivationObserver] | None = None,
    smoothing: Mapping[str, float] | None = None,
) -> QuantizationSummary:
    """Quantize a graph in place.

    Requires: opset 21 or later; weights are float32 initializers of the main graph; `observers` saw this very graph.
    Ensures: the graph's interface is unchanged; each integer initializer feeds `DequantizeLinear` nodes only;
    one QuantizeLinear for each activation; the same float table in two graphs gives the same names and bytes in both.

    Args:
        model: Edited in place.
        precision: One of `moir_edge.calibration.formats.FORMATS`.
        options: How.
        observers: Statistics by name of the activation; formats that store activations need them.
        smoothing: SmoothQuant exponents by activation, for the summary only.

    Returns:
        What became of each weight.

    Raises:
        UnsupportedError: An unknown precision or method, or an opset under 21.
        DataError: A weight holds a NaN or an infinity.
    """
    get_format(precision)
    require_opset(model)
    options = options or LayerOptions()
    scales = ActivationScales(observers or {}, options, smoothing or {})
    methods = LayerMethods(get_method(options.int4_method), observers or {})
    layers = _Layers(GraphRewriter(model.graph), precision, options, scales, methods)
    methods.migrate(model.graph, layers.int4_granularity)
    entries = tuple(layers.quantize(use) for use in find_weight_uses(model.graph))
    layers.rewriter.remove_unused()
    _raise_opset(model, entries)
    return QuantizationSummary(
        precision=precision,
        method=_method(entries, options),
        block_size=_block_size(entries, options),
        weights=entries,
    )


@dataclass(frozen=True)
class _Layers:
    """Takes one layer after the other."""

    rewriter: GraphRewriter
    precision: str
    options: LayerOptions
    scales: ActivationScales
    methods: LayerMethods

    def int4_granularity(self, use: WeightUse) -> Granularity | None:
        """Return which weights of a layer share a scale if it becomes INT4, None if it does not."""
        format_ = choose_layer(use, self.precision, self.options).format
        if format_ is None or format_.storage != ir.DataType.INT4:
            return None
        return format_.granularity(self.options.block_size)

    def quantize(self, use: WeightUse) -> QuantizedWeight:
        """Rewrite one layer and say what became of it."""
        choice = choose_layer(use, self.precision, self.options)
        if choice.format is None:
            return _entry(use, FP32, reason=choice.reason)
        format_, activation, reason = self._activation(use, choice.format)
        if activation is not None and format_.activation is not None:
            self.rewriter.quantize_activation(
                use, activation.scale, grid=format_.activation, signed=self.options.signed
            )
        method = self._method(use, format_)
        entry = _entry(use, format_.precision, reason=reason or choice.reason or method.reason)
        return replace(
            entry,
            activation=activation,
            method=method.name,
            migration=method.alpha,
            **self._store(use, format_, method.quantizer),
        )

    def _store(
        self, use: WeightUse, format_: LayerFormat, quantizer: WeightQuantizer
    ) -> dict[str, Any]:
        """Quantize the weight and return the figures on it."""
        granularity = format_.granularity(self.options.block_size)
        weight, moments = use.matrix(), self.methods.moments(use.activation)
        array = self.rewriter.quantize_weight(use, weight, format_, granularity, quantizer)
        scales = describe_weight(weight, array, format_.facts.bits, moments)
        return {"relative_error": array.relative_error, "scales": scales}

    def _method(self, use: WeightUse, format_: LayerFormat) -> MethodChoice:
        if format_.storage == ir.DataType.INT4:
            return self.methods.of(use)
        if format_.facts.narrow_float:
            return MethodChoice(name="rtn", quantizer=quantize_float)
        return self.methods.of_int8(use)

    def _activation(
        self, use: WeightUse, format_: LayerFormat
    ) -> tuple[LayerFormat, ActivationScale | None, str]:
        """Return the format that the activation allows, its scale, and the reason for another format."""
        scale, reason = self.scales.of(use, format_)
        return (get_format(format_.fallback) if reason else format_), scale, reason


def _method(entries: Sequence[QuantizedWeight], options: LayerOptions) -> str:
    """Name how scales were found: of activations, and of integer weights where there is a choice."""
    static = any(entry.activation is not None for entry in entries)
    parts = [f"static, ranges by {options.method}" if static else "weights only"]
    found = {
        f"{storage} by {entry.method}"
        for entry in entries
        for storage in (INT4, INT8)
        if entry.precision.startswith(storage) and (storage == INT4 or entry.method != "rtn")
    }
    return ", ".join([*parts, *sorted(found)])


def _formats(entries: Sequence[QuantizedWeight]) -> list[LayerFormat]:
    return [FORMATS[entry.precision] for entry in entries if entry.precision in FORMATS]


def _block_size(entries: Sequence[QuantizedWeight], options: LayerOptions) -> int:
    """Return the longest block of a format in blocks, 0 where there is none."""
    sizes = [one.rows_per_scale(options.block_size) for one in _formats(entries) if one.blocks]
    return max(sizes, default=0)


def _raise_opset(model: ir.Model, entries: Sequence[QuantizedWeight]) -> None:
    """Let the graph be of the least opset that has its formats; what it holds means the same in 21 and 23."""
    needed = max((one.facts.opset for one in _formats(entries)), default=0)
    if needed > model.opset_imports[""]:
        model.opset_imports[""] = needed
        opset = onnx.helper.make_opsetid("", needed)
        model.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for([opset]))


def _entry(use: WeightUse, precision: str, *, reason: str) -> QuantizedWeight:
    return QuantizedWeight(
        node=use.node.name or "",
        weight=use.name,
        shape=use.shape,
        precision=precision,
        reason=reason,
    )
