"""SmoothQuant: move the spread between channels from an activation into the weights, where per-channel scales absorb it.

x → x / s and W → s · W leave every product as it was. The division is folded into what makes x: the factors of a
normalisation, or, where x is a product with the output of a MatMul (a gated MLP), the columns of that weight. A channel
that is far wider than the others then no longer decides the step of them all.

Source: Xiao et al., "SmoothQuant", ICML 2023: s_k = max|x_k|^α / max|W_k|^(1 − α), equation 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from moir_edge.calibration.granularity import PerOutputChannel
from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.patterns import WeightUse
from moir_edge.calibration.ranges import LEVELS
from moir_edge.calibration.scales import quantize_array
from moir_edge.calibration.taps import find_activations
from moir_edge.graphs.editing import computed_constant

__all__ = ["ALPHAS", "apply_fold", "find_fold", "smooth"]

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Exponents that the search tries, besides leaving the activation alone."""

Floats = npt.NDArray[np.float32]


_Fold = list[tuple[ir.Node, int]]


def smooth(
    model: ir.Model,
    observers: Mapping[str, ActivationObserver],
    *,
    alpha: float | None = None,
) -> dict[str, float]:
    """Migrate every activation that a division can be folded into and that weights alone read, in place.

    The graph computes what it did, up to rounding.

    Args:
        model: A float graph, edited in place.
        observers: Statistics of its activations; channel maxima and second moments are used.
        alpha: Exponent in [0, 1] for all of them; None takes for each the one of `ALPHAS` with the least expected
            error of the products, or none at all if that has less.

    Returns:
        Exponent by name of the activation, for those that were migrated.
    """
    chosen: dict[str, float] = {}
    for name, uses in find_activations(model.graph).items():
        fold = find_fold(uses)
        if not fold or name not in observers or not observers[name].largest:
            continue
        weights = [use.matrix() for use in uses]
        best = alpha if alpha is not None else _search(observers[name], weights)
        if best is not None:
            apply_fold(model.graph, fold, uses, _factors(observers[name], weights, best))
            chosen[name] = best
    return chosen


def find_fold(uses: Sequence[WeightUse]) -> _Fold:
    """Return the constants, as node and input, whose last axis can be divided in place of an activation.

    Empty if there are none, or if something else reads the activation or one of the constants too.
    """
    value = uses[0].node.inputs[0]
    maker = None if value is None else value.producer()
    if value is None or maker is None or value.is_graph_output():
        return []
    if {node for node, _ in value.uses()} != {use.node for use in uses}:
        return []
    if any(len(use.value.uses()) > 1 for use in uses):
        return []
    return _divisible(maker, uses[0].shape[0])


def _divisible(node: ir.Node, channels: int) -> _Fold:
    """Return where to divide so that the output of `node` is divided per channel."""
    if node.op_type in ("LayerNormalization", "RMSNormalization"):
        given = [index for index in range(1, len(node.inputs)) if node.inputs[index] is not None]
        fits = all(_is_parameter(node.inputs[index], channels) for index in given)
        return [(node, index) for index in given] if fits else []
    if node.op_type != "Mul":
        return []
    for index in (0, 1):
        if _is_parameter(node.inputs[index], channels):
            return [(node, index)]
    return [(product, 1) for product in _products(node) if _makes(product, channels)][:1]


def _products(node: ir.Node) -> list[ir.Node]:
    """Return the MatMul nodes that make an input of `node` and nothing else's."""
    makers = [value.producer() for value in node.inputs if value and len(value.uses()) == 1]
    return [maker for maker in makers if maker is not None and maker.op_type == "MatMul"]


def _makes(product: ir.Node, channels: int) -> bool:
    """Say whether a MatMul multiplies by a (K, channels) weight that nothing else reads."""
    weight = product.inputs[1]
    shape = None if weight is None or weight.shape is None else weight.shape
    return shape is not None and len(shape) == 2 and _is_constant(weight, (shape[0], channels))


def _is_parameter(value: ir.Value | None, channels: int) -> bool:
    return _is_constant(value, (channels,))


def _is_constant(value: ir.Value | None, shape: tuple[object, ...]) -> bool:
    """Say whether a value is a float32 initializer of that shape with one reader."""
    tensor = None if value is None else value.const_value
    if value is None or tensor is None or not value.is_initializer() or len(value.uses()) > 1:
        return False
    return tensor.dtype == ir.DataType.FLOAT and tuple(tensor.shape.numpy()) == shape


def _factors(observer: ActivationObserver, weights: Sequence[Floats], alpha: float) -> Floats:
    """Return s per channel, (channels,); a channel without activation or weight keeps its scale."""
    activation = observer.channel_max.astype(np.float64)
    weight = np.max([np.abs(matrix).max(axis=1) for matrix in weights], axis=0).astype(np.float64)
    used = (activation > 0) & (weight > 0)
    factors = np.ones(len(activation))
    factors[used] = activation[used] ** alpha / weight[used] ** (1 - alpha)
    # Scales only shift by a common factor: the mean logarithm is taken out so that numbers stay near one.
    factors[used] /= np.exp(np.log(factors[used]).mean()) if used.any() else 1.0
    return factors.astype(np.float32)


def _search(observer: ActivationObserver, weights: Sequence[Floats]) -> float | None:
    """Return the exponent of least expected error, or None where no migration is best."""

    def error(alpha: float | None) -> float:
        untouched = np.ones(len(observer.channel_max), np.float32)
        factors = untouched if alpha is None else _factors(observer, weights, alpha)
        return _expected_error(observer, weights, factors)

    return min((None, *ALPHAS), key=error)


def _expected_error(
    observer: ActivationObserver, weights: Sequence[Floats], factors: Floats
) -> float:
    """Return the expected squared error of the products per token, channels taken as uncorrelated.

    Rounding of x / s by steps of its largest magnitude over 127, and of s · W to 8 bits per output channel.
    """
    step = float((observer.channel_max / factors).max()) / LEVELS
    moment = observer.second_moment / factors.astype(np.float64) ** 2
    error = 0.0
    for matrix in weights:
        scaled = matrix * factors[:, None]
        array = quantize_array(scaled, PerOutputChannel(), 8)
        difference = (array.values * array.scale - scaled).astype(np.float64)
        error += step**2 / 12 * float(np.square(scaled, dtype=np.float64).sum())
        error += float(moment @ np.square(difference).sum(axis=1))
    return error


def apply_fold(graph: ir.Graph, fold: _Fold, uses: Sequence[WeightUse], factors: Floats) -> None:
    """Divide what makes the activation by s and multiply the rows of every weight.

    The new weights are computed when they are asked for: a copy of the whole model would lie in memory otherwise.
    """
    for node, index in fold:
        parameter = node.inputs[index]
        if parameter is not None:
            _replace_input(graph, node, index, parameter, lambda array: array / factors)
    rows = factors[:, None]
    for use in uses:
        by_row = rows if use.kind == "matmul" else factors
        _replace_input(graph, use.node, 1, use.value, partial(np.multiply, by_row))


def _replace_input(
    graph: ir.Graph,
    node: ir.Node,
    index: int,
    old: ir.Value,
    change: Callable[[Floats], Floats],
) -> None:
    """Give one input of a node another constant of the same name; nothing else reads the old one."""
    name, tensor = str(old.name), old.const_value
    if tensor is None:
        return

    def compute() -> Floats:
        return change(np.asarray(tensor.numpy(), np.float32))

    new = computed_constant(name, tensor.shape.numpy(), compute)
    node.replace_input_with(index, new)
    graph.initializers.pop(name)
    graph.initializers[name] = new
