from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from moir_edge.calibration.mixed.layers import Layer, LayerUse
from moir_edge.calibration.mixed.records import LayerSensitivity, PrecisionCost
from moir_edge.calibration.mixed.search import mix_after, raising_order, smallest_reaching
from moir_edge.errors import NotFiniteError

PRECISIONS = ("int4", "int8-weight-only", "fp32")


def _layer(name: str, kl: tuple[float, ...], sizes: tuple[int, ...]) -> LayerSensitivity:
    precisions = PRECISIONS[-len(sizes) :]
    layer = Layer(
        uses=(LayerUse(component="decoder", node=name),),
        weight=name,
        shape=(1, 1),
        precisions=precisions,
        bytes=sizes,
    )
    costs = [
        PrecisionCost(precision=precision, bytes=size, kl=one)
        for precision, size, one in zip(precisions, sizes, kl, strict=False)
    ]
    return LayerSensitivity.of(layer, costs)


def _random_layers(seed: int, count: int = 7) -> list[LayerSensitivity]:
    random = np.random.default_rng(seed)
    return [
        _layer(
            f"layer{at}",
            (float(random.exponential()), float(random.exponential() / 20)),
            (size := int(random.integers(100, 1000)), 2 * size, 8 * size),
        )
        for at in range(count)
    ]


def _raised(layers: list[LayerSensitivity], count: int) -> list[tuple[str, str]]:
    return [(layers[s.layer].layer.weight, s.precision) for s in raising_order(layers)[:count]]


def test_the_most_divergence_per_byte_is_saved_first() -> None:
    layers = [
        _layer("small", (1.0, 0.1), (10, 20, 80)),  # 0.09 a byte, then 0.1 / 60
        _layer("large", (4.0, 0.4), (100, 200, 800)),  # 0.036 a byte, then 0.4 / 600
        _layer("head", (0.6,), (10, 40)),  # 0.02 a byte
    ]
    assert _raised(layers, 9) == [
        ("small", "int8-weight-only"),
        ("large", "int8-weight-only"),
        ("head", "fp32"),
        ("small", "fp32"),
        ("large", "fp32"),
    ]


def test_what_costs_no_byte_comes_first_the_worst_layer_leading() -> None:
    layers = [_layer("a", (0.2, 0.1), (10, 10, 40)), _layer("b", (0.9, 0.1), (10, 10, 40))]
    assert [name for name, _ in _raised(layers, 2)] == ["b", "a"]


def test_a_precision_that_does_not_help_is_passed_over() -> None:
    (step,) = raising_order([_layer("x", (0.5, 0.6), (10, 20, 80))])
    assert (step.precision, step.bytes_added, step.kl_saved) == ("fp32", 70, 0.5)


def test_layers_without_divergence_come_last_and_all_end_in_float() -> None:
    layers = [_layer("idle", (0.0, 0.0), (10, 20, 80)), _layer("busy", (0.1, 0.05), (10, 20, 80))]
    order = raising_order(layers)
    assert [step.layer for step in order[:2]] == [1, 1]
    assert mix_after(layers, order) == {"decoder": {"idle": "fp32", "busy": "fp32"}}
    assert mix_after(layers, ()) == {}


@pytest.mark.parametrize("seed", range(5))
def test_steps_only_ever_add_bytes(seed: int) -> None:
    layers = _random_layers(seed)
    order = raising_order(layers)
    assert all(step.bytes_added > 0 for step in order)
    worth = [step.worth for step in order]
    assert worth == sorted(worth, reverse=True)
    assert order == raising_order(layers)


@pytest.mark.parametrize("seed", range(5))
def test_each_prefix_is_the_best_mix_of_its_size(seed: int) -> None:
    """Against all mixes: none of as many bytes or fewer leaves less divergence in sum."""
    layers = _random_layers(seed, count=4)
    every = [
        (sum(c.bytes for c in mix), sum(c.kl for c in mix))
        for mix in itertools.product(*(layer.costs for layer in layers))
    ]
    order = raising_order(layers)
    for count in range(len(order) + 1):
        raised = mix_after(layers, order[:count]).get("decoder", {})
        mine = [
            next(c for c in one.costs if c.precision == raised.get(one.layer.weight, "int4"))
            for one in layers
        ]
        size, kl = sum(c.bytes for c in mine), sum(c.kl for c in mine)
        assert not [other for other in every if other[0] <= size and other[1] < kl - 1e-12]


def test_the_smallest_number_is_that_of_trying_all() -> None:
    for count in range(12):
        for least in range(count + 2):
            tried: list[int] = []

            def reaches(number: int, least: int = least, tried: list[int] = tried) -> bool:
                tried.append(number)
                return number >= least

            expected = next((n for n in range(count + 1) if n >= least), None)
            assert smallest_reaching(count, reaches) == expected
            assert len(tried) <= 2 + np.ceil(np.log2(max(count, 1)))


@pytest.mark.parametrize("seed", range(20))
def test_a_higher_target_never_takes_fewer_steps(seed: int) -> None:
    """On scores that do not even grow with each step, as scores of few rows do."""
    scores = np.random.default_rng(seed).normal(size=30).cumsum() + np.arange(30)
    targets = sorted(np.linspace(scores.min() - 1, scores.max() + 1, 40))
    found = [smallest_reaching(29, lambda n, t=target: scores[n] >= t) for target in targets]
    reached = [number for number in found if number is not None]
    assert reached == sorted(reached)
    assert found[: len(reached)] == reached  # once out of reach, always
    for target, number in zip(targets, reached, strict=False):
        assert scores[number] >= target
        assert number == 0 or scores[number - 1] < target


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_divergence_that_is_not_finite_is_refused_by_the_layer(bad: float, place: int) -> None:
    kl = [0.5, 0.1]
    kl[place] = bad
    message = (
        f"^sensitivity of decoder: mlp/up in {PRECISIONS[place]}: kl is {bad}; the layer cannot be ranked. "
        "Keep its component in floating point with `settings.component_precision`$"
    )
    with pytest.raises(NotFiniteError, match=message):
        _layer("mlp/up", tuple(kl), (100, 200, 800))
