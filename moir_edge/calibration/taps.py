"""Watch activations inside a graph: find those that multiply a weight, and give them out as further outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from moir_edge.arguments import mapping, switch
from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.patterns import WeightUse, find_weight_uses, is_head, reason_to_leave
from moir_edge.checked import an_onnx_model, checked, lazily
from moir_edge.errors import DataError
from moir_edge.graphs.editing import node_of
from moir_edge.graphs.sessions import TAP_PREFIX, cpu_session

__all__ = [
    "MAX_GRAM_CHANNELS",
    "GraphObservers",
    "add_taps",
    "find_activations",
    "new_observers",
    "observe",
    "update_observers",
]

MAX_GRAM_CHANNELS = 4096
"""Widest activation whose Σ x xᵀ is kept: 134 MB, and seconds to factor."""

GraphObservers = dict[str, ActivationObserver]
"""Name of an activation to its statistics."""


def find_activations(graph: ir.Graph) -> dict[str, list[WeightUse]]:
    """Return the activations that a weight fit for quantization multiplies, with those weights, in graph order.

    The head's is not among them: the head stays weight-only.
    """
    found: dict[str, list[WeightUse]] = {}
    for use in find_weight_uses(graph):
        source = use.node.inputs[0]
        if (
            use.kind in ("matmul", "transposed")
            and source is not None
            and not reason_to_leave(use)
            and not is_head(use.node)
        ):
            found.setdefault(str(source.name), []).append(use)
    return found


def new_observers(graph: ir.Graph, *, gram: bool = False) -> GraphObservers:
    """Return an empty observer for each activation of `find_activations`.

    Args:
        graph: A float graph.
        gram: Gather Σ x xᵀ too, of activations of up to `MAX_GRAM_CHANNELS`.
    """
    channels = {name: uses[0].shape[0] for name, uses in find_activations(graph).items()}
    return {
        name: ActivationObserver(count, gram=gram and count <= MAX_GRAM_CHANNELS)
        for name, count in channels.items()
    }


def add_taps(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """Return a copy of a graph with outputs ``tap/<name>`` for some of its values.

    Weights are shared with the original.
    """
    copy = model.clone()
    graph = copy.graph
    values = {value.name: value for node in graph for value in node.outputs}
    values |= {value.name: value for value in graph.inputs}
    for name in names:
        value = values[name]
        dtype = value.dtype or ir.DataType.FLOAT
        node = node_of("Identity", [value], f"{TAP_PREFIX}{name}", like=value, dtype=dtype)
        graph.append(node)
        graph.outputs.append(node.outputs[0])
    return copy


@checked(model=an_onnx_model, feeds=lazily(mapping), gram=switch)
def observe(
    model: onnx.ModelProto | ir.Model,
    feeds: Iterable[Mapping[str, npt.NDArray[Any]]],
    *,
    gram: bool = False,
) -> GraphObservers:
    """Run a float graph on inputs and gather the statistics that `quantize` takes.

    Args:
        model: Any ONNX model under 2 GB that ONNX Runtime runs.
        feeds: Inputs by name, one run each; taken one at a time.
        gram: Gather Σ x xᵀ too, for `awq` and `gptq`.

    Raises:
        DataError: There is no feed, or an activation is not finite.
    """
    float_model = ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model
    observers = new_observers(float_model.graph, gram=gram)
    if not observers:
        return observers
    session = cpu_session(add_taps(float_model, observers))
    runs = 0
    for runs, feed in enumerate(feeds, start=1):
        arrays = session.run([f"{TAP_PREFIX}{name}" for name in observers], dict(feed))
        update_observers(observers, dict(zip(observers, arrays, strict=True)), f"feed {runs}")
    if not runs:
        raise DataError("no feed was given to calibrate with; give at least one")
    return observers


def update_observers(
    observers: GraphObservers, values: Mapping[str, npt.NDArray[np.float32]], where: str
) -> None:
    """Let each observer take in its activation.

    Args:
        observers: By activation.
        values: Name of an activation to what one run gave.
        where: What was run, for the message.

    Raises:
        DataError: A value is not finite.
    """
    for name, observer in observers.items():
        try:
            observer.update(values[name])
        except DataError as error:
            raise DataError(
                f"{where}: the float graph gives a NaN or an infinity at {name!r}, so it has no range; "
                "check that the checkpoint answers this row"
            ) from error
