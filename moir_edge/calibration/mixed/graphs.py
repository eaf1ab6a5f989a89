"""Sensitivity of the layers of one graph on given inputs: what each costs when it alone is quantized."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from moir_edge.arguments import mapping, text
from moir_edge.calibration.layers import LayerOptions, quantize_layers
from moir_edge.calibration.mixed.divergence import kl_divergence
from moir_edge.calibration.mixed.layers import Layer, LayerTable, Quantizer
from moir_edge.calibration.mixed.overrides import TRIAL_SESSION, TrialGraphs
from moir_edge.calibration.mixed.records import LayerSensitivity, PrecisionCost, try_layers
from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.quantize import require_statistics
from moir_edge.calibration.summary import QuantizationSummary
from moir_edge.checked import an_onnx_model, checked, lazily, maybe, required
from moir_edge.errors import DataError
from moir_edge.graphs.sessions import cpu_session

__all__ = ["measure_layers", "sensitivity"]

Array = npt.NDArray[Any]
_COMPONENT = "graph"


@checked(
    model=an_onnx_model,
    feeds=lazily(mapping),
    precision=required(text),
    output=required(text),
    options=maybe(LayerOptions),
)
def sensitivity(
    model: onnx.ModelProto | ir.Model,
    feeds: Iterable[Mapping[str, Array]],
    precision: str,
    *,
    output: str = "logits",
    observers: Mapping[str, ActivationObserver] | None = None,
    options: LayerOptions | None = None,
) -> tuple[LayerSensitivity, ...]:
    """Measure what each layer of a float graph costs when it alone is quantized.

    The output is read as logits over its last axis; the cost is KL(float ‖ quantized), averaged over all other axes and
    over the inputs. A layer is tried in the precision that `quantize` would give it and in the fall-backs of that up to
    float32, where the cost is 0. One session serves all trials: layers × precisions × feeds runs.

    Args:
        model: Any ONNX model of opset 21 or later under 2 GB with float32 weights; not changed.
        feeds: Inputs by name, one run each.
        precision: What the layers would be quantized to.
        output: The output that is compared.
        observers: Statistics of the activations, for precisions that store them.
        options: As for `quantize`; precisions by name in it are the floor of those layers.

    Returns:
        One entry per layer that `quantize` would quantize, in graph order.

    Raises:
        UnsupportedError: An unknown precision, or one that needs statistics without them.
        DataError: There is no feed, or no output of that name.
    """
    require_statistics(precision, observers)
    graph = ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model
    names = [str(value.name) for value in graph.graph.outputs]
    if output not in names:
        raise DataError(f"the graph has no output {output!r}; it has {', '.join(names)}")
    table = LayerTable({_COMPONENT: graph}, _quantizer(precision, observers, options))
    return measure_layers(table, [dict(feed) for feed in feeds], output)


def _quantizer(
    precision: str,
    observers: Mapping[str, ActivationObserver] | None,
    options: LayerOptions | None,
) -> Quantizer:
    own = options or LayerOptions()

    def quantizer(
        component: str, model: ir.Model, precisions: Mapping[str, str]
    ) -> QuantizationSummary:
        del component
        mixed = replace(own, precisions={**precisions, **own.precisions})
        return quantize_layers(model, precision, options=mixed, observers=observers)

    return quantizer


def measure_layers(
    table: LayerTable, feeds: Sequence[Mapping[str, Array]], output: str
) -> tuple[LayerSensitivity, ...]:
    """Measure the layers of a table that holds one graph, named ``graph``; see `sensitivity`.

    Raises:
        DataError: There is no feed.
    """
    if not feeds:
        raise DataError("no feed was given to measure with; give at least one")
    trials = TrialGraphs(table)
    run = _Run(cpu_session(trials.models[_COMPONENT], TRIAL_SESSION), feeds, output)

    def cost(layer: Layer, precision: str, size: int) -> PrecisionCost:
        further = trials.feeds(layer, precision)
        if further is not None:
            kl = run.kl(further[_COMPONENT])
        else:
            alone = table.alone(layer, precision)[_COMPONENT]
            kl = run.kl({}, cpu_session(alone, TRIAL_SESSION))
        return PrecisionCost(precision=precision, bytes=size, kl=kl)

    return try_layers(table.layers, cost)


class _Run:
    """One session, its inputs, and what it gives for them in float32."""

    def __init__(self, session: Any, feeds: Sequence[Mapping[str, Array]], output: str) -> None:
        self._session = session
        self._feeds = feeds
        self._output = output
        self._reference = [self._run(session, feed) for feed in feeds]

    def kl(self, further: Mapping[str, Array], session: Any = None) -> float:
        """Return the mean divergence with further inputs, or of another session."""
        other = self._session if session is None else session
        outputs = [self._run(other, {**feed, **further}) for feed in self._feeds]
        pairs = zip(self._reference, outputs, strict=True)
        return float(np.mean([kl_divergence(*pair).mean() for pair in pairs]))

    def _run(self, session: Any, feed: Mapping[str, Array]) -> Array:
        output: Array = session.run([self._output], dict(feed))[0]
        return output
