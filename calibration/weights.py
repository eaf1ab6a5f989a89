"""Weight-only quantization of a traced graph: float initializers become integers behind `DequantizeLinear`.

Only standard operators of opset 21 are used, so one file serves ONNX Runtime and TensorRT. TensorRT takes an integer
constant only directly before its `DequantizeLinear`, and ONNX Runtime fuses only `DequantizeLinear` → `MatMul` on a
(K, N) weight: both decide the forms below.

- MatMul or Gemm on a weight: ``int8-weight-only`` has one scale per output channel, ``int4`` one per block of rows. A
  weight whose K is no multiple of the block size, and the head that makes the logits, take INT8 under ``int4`` too.
- A token table (Gather by a graph input): INT8, one scale per token, kept as (hidden, vocabulary). A head that shares the
  table reads the very same bytes as its (K, N) weight, so embedding and head are stored once.
- Everything else stays float: norms, position tables, convolutions, small weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import count
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from moir_edge.calibration.granularity import Granularity, PerBlock, PerOutputChannel
from moir_edge.calibration.patterns import WeightUse, find_weight_uses, is_head
from moir_edge.calibration.scales import QuantizedArray, quantize_array
from moir_edge.calibration.summary import QuantizationSummary, QuantizedWeight
from moir_edge.errors import UnsupportedError, closest

__all__ = ["WEIGHT_PRECISIONS", "quantize_weights"]

WeightPrecision = Literal["int8-weight-only", "int4"]
WEIGHT_PRECISIONS: tuple[WeightPrecision, ...] = ("int8-weight-only", "int4")

# Scales and an extra node cost more than a smaller weight would save.
_MIN_ELEMENTS = 1024
_STORED_AS = {"int8-weight-only": ir.DataType.INT8, "int4": ir.DataType.INT4}
_SUFFIX = {"int8-weight-only": "int8", "int4": "int4"}


def quantize_weights(
    model: ir.Model,
    precision: WeightPrecision,
    *,
    block_size: int = 32,
    exclude: Sequence[str] = (),
) -> QuantizationSummary:
    """Quantize the weights of a graph in place.

    Requires: opset 21 or later; weights are float32 initializers of the main graph.
    Ensures: the graph's interface is unchanged; each integer initializer feeds `DequantizeLinear` nodes only;
    the same float table in two graphs gives the same names and bytes in both.

    Args:
        model: Edited in place.
        precision: ``int8-weight-only`` or ``int4``.
        block_size: Rows per scale under ``int4``: 16, 32, 64, 128 or 256.
        exclude: Names, or patterns as ``*.lm_head.*``, of nodes and initializers to leave in float32.

    Returns:
        What became of each weight.

    Raises:
        UnsupportedError: Another precision, or an opset under 21.
        DataError: A weight holds a NaN or an infinity.
    """
    _check(model, precision)
    blocks = PerBlock(block_size=block_size)
    rewriter = _Rewriter(model.graph)
    entries = []
    for use in find_weight_uses(model.graph):
        reason = _reason_to_leave(use, exclude)
        if reason:
            entries.append(_entry(use, "fp32", reason=reason))
            continue
        chosen, granularity, why = _choose(use, precision, blocks)
        array = rewriter.apply(use, chosen, granularity)
        entries.append(_entry(use, chosen, error=array.relative_error, reason=why))
    rewriter.remove_unused()
    return QuantizationSummary(precision=precision, block_size=block_size, weights=tuple(entries))


def _check(model: ir.Model, precision: str) -> None:
    if precision not in WEIGHT_PRECISIONS:
        raise UnsupportedError(
            f"cannot quantize weights to {precision!r}: {closest(precision, WEIGHT_PRECISIONS)}"
        )
    opset = model.opset_imports.get("", 0)
    if opset < 21:
        raise UnsupportedError(
            f"the graph has opset {opset}; block-wise DequantizeLinear needs 21 or later, export it again"
        )


def _reason_to_leave(use: WeightUse, exclude: Sequence[str]) -> str:
    names = (use.node.name or "", use.name)
    if any(fnmatchcase(name, pattern) for name in names for pattern in exclude):
        return "excluded by the caller"
    if use.obstacle:
        return use.obstacle
    elements = int(np.prod(use.shape))
    if elements < _MIN_ELEMENTS:
        return f"{elements} weights are too few to gain from it"
    return ""


def _choose(
    use: WeightUse, precision: WeightPrecision, blocks: PerBlock
) -> tuple[WeightPrecision, Granularity, str]:
    """Return precision, granularity and, where the precision is not the one asked for, the reason."""
    per_channel = PerOutputChannel()
    if precision == "int8-weight-only":
        return precision, per_channel, ""
    if use.kind == "table":
        return "int8-weight-only", per_channel, "token tables take one INT8 scale per token"
    if is_head(use.node):
        return (
            "int8-weight-only",
            per_channel,
            "the head decides between near tokens; INT4 costs accuracy",
        )
    rows = use.shape[0]
    if rows % blocks.block_size:
        why = f"K = {rows} is no multiple of the block size {blocks.block_size}"
        return "int8-weight-only", per_channel, why
    return precision, blocks, ""


def _entry(
    use: WeightUse, precision: str, *, error: float = 0.0, reason: str = ""
) -> QuantizedWeight:
    return QuantizedWeight(
        node=use.node.name or "",
        weight=use.name,
        shape=use.shape,
        precision=precision,
        relative_error=error,
        reason=reason,
    )


class _Rewriter:
    """Replaces float weights in a graph; a weight with several uses is quantized once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._stored: dict[str, tuple[ir.Value, ir.Value, QuantizedArray]] = {}
        self._replaced: dict[str, ir.Value] = {}
        self._numbers = count()

    def apply(
        self, use: WeightUse, precision: WeightPrecision, granularity: Granularity
    ) -> QuantizedArray:
        """Put `DequantizeLinear` before one use and return the quantized weight."""
        values, scale, array = self._store(use, precision, granularity)
        # One node per use: the runtimes fuse a DequantizeLinear only with its single consumer.
        dequantize = ir.node(
            "DequantizeLinear",
            inputs=[values, scale],
            attributes=granularity.attributes,
            name=f"{use.node.name}/DequantizeLinear",
        )
        output = dequantize.outputs[0]
        # Short, for it stands twice in the file: on a small model names are a percent of the bytes.
        output.name = f"dq{next(self._numbers)}"
        output.dtype, output.shape = ir.DataType.FLOAT, values.shape
        self._graph.insert_before(use.node, dequantize)
        use.connect(self._graph, output)
        self._replaced[use.name] = use.value
        return array

    def _store(
        self, use: WeightUse, precision: WeightPrecision, granularity: Granularity
    ) -> tuple[ir.Value, ir.Value, QuantizedArray]:
        name = f"{use.name}_{_SUFFIX[precision]}"
        if name not in self._stored:
            array = quantize_array(use.matrix(), granularity, 4 if precision == "int4" else 8)
            values = self._initializer(name, array.values, _STORED_AS[precision])
            scale = self._initializer(f"{use.name}_scale", array.scale, ir.DataType.FLOAT)
            self._stored[name] = (values, scale, array)
        return self._stored[name]

    def _initializer(
        self, name: str, array: npt.NDArray[np.int8] | npt.NDArray[np.float32], dtype: ir.DataType
    ) -> ir.Value:
        tensor = ir.Tensor(array.astype(dtype.numpy()), dtype=dtype, name=name)
        value = ir.Value(
            name=name,
            type=ir.TensorType(dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self._graph.initializers[name] = value
        return value

    def remove_unused(self) -> None:
        """Drop the float weights that nothing reads any more."""
        for name, value in self._replaced.items():
            if not value.uses() and name in self._graph.initializers:
                self._graph.initializers.pop(name)
