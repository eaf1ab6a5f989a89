"""The layers of a bundle's graphs as TensorRT reads them, with the types that it computes in; no GPU and no build needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moir_edge.bundle import Bundle
from moir_edge.engines.builder import parse, start_builder
from moir_edge.targets import get_target
from moir_edge.tensorrt_api import load_tensorrt, make_log

__all__ = ["Layer", "bundle_layers", "count_layers", "network_layers"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a parsed network.

    Attributes:
        name: As the parser made it from the node's.
        kind: TensorRT's name, such as ``MATRIX_MULTIPLY`` or ``DEQUANTIZE``.
        inputs: Types of its inputs, such as ``("HALF", "HALF")``.
        output: Type of its first output.
        shape: Shape of its first output, -1 for a dynamic axis; empty for a scalar, None where it is not known.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    shape: tuple[int, ...] | None

    @property
    def computes(self) -> bool:
        """Whether the layer works on activations or weights, rather than on shapes, masks or constants."""
        return self.kind != "CONSTANT" and self.output not in ("INT64", "INT32", "BOOL", "")


def bundle_layers(bundle: Bundle) -> dict[str, list[Layer]]:
    """Return the layers of every component.

    Args:
        bundle: An opened bundle. `tensorrt` reads the graphs of a Jetson bundle, `tensorrt_rtx` all others.

    Raises:
        EnvironmentProblem: That module is not installed.
        UnsupportedError: It cannot read a graph.
    """
    on_device = get_target(bundle.manifest.target).builder == "tensorrt"
    trt = load_tensorrt("tensorrt" if on_device else "tensorrt_rtx")
    return {name: network_layers(trt, bundle.graph(name)) for name in bundle.manifest.components}


def network_layers(trt: Any, graph: Path) -> list[Layer]:
    """Return the layers of one graph, in the order of the network.

    Args:
        trt: Either module.
        graph: The ONNX file.

    Raises:
        UnsupportedError: The parser refuses the graph.
    """
    log = make_log(trt)
    builder = start_builder(trt, log)
    network, _parser = parse(trt, builder, graph, log)
    return [_layer(network.get_layer(index)) for index in range(network.num_layers)]


def count_layers(layers: Iterable[Layer]) -> list[tuple[str, str, str, int]]:
    """Return kind, input types, output type and number of layers, the most frequent first.

    Args:
        layers: Those of one component.
    """
    counts = Counter((layer.kind, ", ".join(layer.inputs), layer.output) for layer in layers)
    return [(*key, number) for key, number in counts.most_common()]


def _layer(layer: Any) -> Layer:
    inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
    output = layer.get_output(0)
    return Layer(
        name=layer.name,
        kind=layer.type.name,
        # An input that is left out is None.
        inputs=tuple(tensor.dtype.name for tensor in inputs if tensor is not None),
        output="" if output is None else output.dtype.name,
        shape=_shape(output),
    )


def _shape(tensor: Any) -> tuple[int, ...] | None:
    if tensor is None:
        return None
    try:
        return tuple(int(size) for size in tensor.shape)
    except ValueError:  # TensorRT marks a rank that it does not know by a negative length
        return None
