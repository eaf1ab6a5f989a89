"""Edit a graph: float weights become narrow numbers behind `DequantizeLinear`, activations pass through 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from moir_edge.calibration.formats import LayerFormat
from moir_edge.calibration.granularity import Granularity
from moir_edge.calibration.grids import E4M3, INT8, Grid
from moir_edge.calibration.patterns import WeightUse
from moir_edge.calibration.scales import QuantizedArray, quantize_array
from moir_edge.errors import UnsupportedError
from moir_edge.graphs.editing import add_constant, node_of, remove_unused

__all__ = [
    "GraphRewriter",
    "WeightQuantizer",
    "require_opset",
    "require_symmetric",
    "sign_activations",
]

WeightQuantizer = Callable[[npt.NDArray[np.float32], Granularity, int], QuantizedArray]
"""Called as ``quantizer(weight, granularity, bits)`` on a (K, N) weight."""

# Unsigned with 128 for zero is the same grid as signed with 0, and what ONNX Runtime's x86-64 kernels are fast in.
_UNSIGNED_ZERO = np.uint8(128)


class GraphRewriter:
    """Replaces float weights in a graph; a weight with several uses is quantized once.

    Args:
        graph: Edited in place.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._stored: dict[str, tuple[list[ir.Value], QuantizedArray]] = {}
        self._activations: dict[tuple[ir.Value, Grid], ir.Value] = {}
        self._replaced: list[str] = []
        self._numbers = count()

    def quantize_weight(
        self,
        use: WeightUse,
        weight: npt.NDArray[np.float32],
        format_: LayerFormat,
        granularity: Granularity,
        quantizer: WeightQuantizer = quantize_array,
    ) -> QuantizedArray:
        """Put `DequantizeLinear` before one use and return the quantized weight.

        Args:
            use: The node that reads the weight.
            weight: (K, N), from `WeightUse.matrix`.
            format_: How it is stored.
            granularity: Which of its numbers share a scale.
            quantizer: Finds numbers and scales.
        """
        name = f"{use.name}_{format_.storage.name.lower()}"
        stored = self._stored.get(name)
        if stored is None:
            array = quantizer(weight, granularity, format_.facts.bits)
            stored = self._constants(use, name, format_, array), array
        # Nothing is kept for a weight that no other node reads: all of them together are a copy of the model.
        if len(use.value.uses()) > 1:
            self._stored[name] = stored
        constants, array = stored
        if array.outer_scale is not None:
            scale = self._scale_of_blocks(use, constants[1], array.outer_scale)
            constants = [constants[0], scale]
        # One node per use: the runtimes fuse a DequantizeLinear only with its single consumer.
        dequantized = self._node(
            "DequantizeLinear", constants, use.node, constants[0], attributes=granularity.attributes
        )
        use.connect(self._graph, dequantized)
        self._replaced.append(use.name)
        return array

    def quantize_activation(
        self, use: WeightUse, scale: float, *, grid: Grid = INT8, signed: bool = True
    ) -> None:
        """Let a MatMul or Gemm read its first input through 8 bits, one scale for all of it.

        Args:
            use: The node.
            scale: What a stored one stands for.
            grid: The numbers that are stored.
            signed: Store integers as int8 with zero point 0, which TensorRT asks for, rather than as uint8 with 128,
                which ONNX Runtime is fast in; both represent the same numbers.
        """
        value = use.node.inputs[0]
        if value is None:
            return
        key = (value, grid)
        if key not in self._activations:
            zero = self._zero_point(grid, signed)
            self._activations[key] = self._through_8_bits(value, use.node, scale, zero)
        use.node.replace_input_with(0, self._activations[key])

    def remove_unused(self) -> None:
        """Drop the float weights that nothing reads any more."""
        remove_unused(self._graph, self._replaced)

    def _zero_point(self, grid: Grid, signed: bool) -> ir.Value:
        """Return the zero point, whose type is that of the stored numbers."""
        if grid != INT8:
            return self._constant("zero_point_float", np.float32(0), grid.storage)
        if signed:
            return self._constant("zero_point", np.int8(0), ir.DataType.INT8)
        return self._constant("zero_point", _UNSIGNED_ZERO, ir.DataType.UINT8)

    def _scale_of_blocks(self, use: WeightUse, scale: ir.Value, outer: float) -> ir.Value:
        """Put a `DequantizeLinear` before one use that widens the blocks' own scales."""
        name = f"{use.name}_outer_scale"
        outer_scale = self._constant(name, np.float32(outer), ir.DataType.FLOAT)
        return self._node("DequantizeLinear", [scale, outer_scale], use.node, scale)

    def _through_8_bits(
        self, value: ir.Value, before: ir.Node, scale: float, zero: ir.Value
    ) -> ir.Value:
        stored = zero.dtype or ir.DataType.UNDEFINED
        name = f"activation{len(self._activations)}"
        step = self._constant(f"{name}_scale", np.float32(scale), ir.DataType.FLOAT)
        narrow = self._node("QuantizeLinear", [value, step, zero], before, value, dtype=stored)
        return self._node("DequantizeLinear", [narrow, step, zero], before, value)

    def _constants(
        self, use: WeightUse, name: str, format_: LayerFormat, array: QuantizedArray
    ) -> list[ir.Value]:
        """Return the inputs of `DequantizeLinear`: integers, scale and, if there are any, zero points."""
        storage = format_.storage if array.zero_point is None else ir.DataType.UINT4
        wide = ir.DataType.FLOAT if array.outer_scale is None else E4M3.storage
        constants = [
            self._constant(name, array.values, storage),
            self._constant(f"{use.name}_scale", array.scale, wide),
        ]
        if array.zero_point is not None:
            constants.append(self._constant(f"{use.name}_zero", array.zero_point, storage))
        return constants

    def _node(
        self,
        op_type: str,
        inputs: list[ir.Value],
        before: ir.Node,
        like: ir.Value,
        *,
        dtype: ir.DataType = ir.DataType.FLOAT,
        attributes: dict[str, int] | None = None,
    ) -> ir.Value:
        # Short, for it stands twice in the file: on a small model names are a percent of the bytes.
        output = f"dq{next(self._numbers)}"
        name = f"{before.name}/{output}"
        node = node_of(
            op_type, inputs, name, output=output, like=like, dtype=dtype, attributes=attributes
        )
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def _constant(
        self, name: str, array: npt.NDArray[Any] | np.generic, dtype: ir.DataType
    ) -> ir.Value:
        if name not in self._graph.initializers:
            add_constant(self._graph, name, array, dtype)
        return self._graph.initializers[name]


def require_opset(model: ir.Model) -> None:
    """Raise `UnsupportedError` for a graph whose opset is older than the forms that are written here."""
    opset = model.opset_imports.get("", 0)
    if opset < 21:
        raise UnsupportedError(
            f"the graph has opset {opset}; block-wise DequantizeLinear needs 21 or later, export it again"
        )


def require_symmetric(graph: ir.Graph) -> None:
    """Raise `UnsupportedError` for a graph whose INT4 weights have zero points: TensorRT does not read them."""
    for name, value in graph.initializers.items():
        if value.dtype == ir.DataType.UINT4:
            raise UnsupportedError(
                f"{name} is an INT4 weight with zero points, as `settings.int4_method='hqq'` makes them, and TensorRT does not "
                "read such weights; export with rtn, awq or gptq"
            )


def sign_activations(graph: ir.Graph) -> None:
    """Turn uint8 activations with zero point 128 into int8 ones with 0, which represent the same numbers.

    TensorRT takes no other. The graph is edited in place.
    """
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.UINT8 or tensor.shape.rank() != 0:
            continue
        users = {node for node, _ in value.uses()}
        if users and all(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in users):
            _replace_zero_point(graph, name, value, users)


def _replace_zero_point(graph: ir.Graph, name: str, value: ir.Value, users: set[ir.Node]) -> None:
    signed = add_constant(graph, f"{name}_signed", np.int8(0), ir.DataType.INT8)
    value.replace_all_uses_with(signed)
    graph.initializers.pop(name)
    for node in users:
        if node.op_type == "QuantizeLinear":
            node.outputs[0].type = ir.TensorType(ir.DataType.INT8)
