"""The router's numbers where one of them decides: torch, ONNX, kernels and numpy against values computed by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from moir_edge.ops import ROUTER_INPUTS, router_graph
from moir_edge.ops.reference_router import route
from moir_edge.router import Router, RouterConfig, TokenRouter, build_router

HIDDEN = 4
# float32 densities and logarithms near 1, and products of four terms.
TOLERANCE = 1e-6
UP, DOWN = (1.0, -1.0, 1.0, -1.0), (1.0, -1.0, -1.0, 1.0)
"""Tokens of mean 0 and variance 1, which a LayerNorm leaves as they are."""


def token_router(head: tuple[float, ...], **settings: Any) -> TokenRouter:
    """A router whose queries are zero, so that similarities are the logarithms of densities alone."""
    router = TokenRouter(RouterConfig(rank=2, **settings), HIDDEN).eval()
    for side in (router.image, router.text):
        nn.init.zeros_(side.query.weight)
        if router.config.density == "confidence":
            side.head.weight.data = torch.tensor([head])
            nn.init.zeros_(side.head.bias)
    return router


def rows(image: list[Any], text: list[Any]) -> tuple[Any, ...]:
    """One sample: its image tokens, then its text tokens."""
    places = np.arange(len(image) + len(text))
    return (
        np.array([[*image, *text]], np.float32),
        places[None, : len(image)],
        places[None, len(image) :],
        np.ones((1, len(text)), bool),
    )


def outcomes(router: Router, inputs: tuple[Any, ...], interpreter: Any) -> dict[str, Any]:
    """Route with each implementation; the kernels route tokens alone."""
    with torch.no_grad():
        found: dict[str, Any] = {"torch": router(*map(torch.from_numpy, inputs))}
    session = onnxruntime.InferenceSession(
        router_graph(router).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = ("inputs_embeds", "scores", "indices", "margin", "gate")
    values = session.run(None, dict(zip(ROUTER_INPUTS, inputs, strict=True)))
    found["onnx"] = SimpleNamespace(**dict(zip(names, values, strict=True)))
    state = {name: item.detach().numpy() for name, item in router.state_dict().items()}
    found["numpy"] = route(state, router.config, *inputs)
    if isinstance(router, TokenRouter):
        found["kernels"] = interpreter(router, inputs)
    return found


@pytest.mark.parametrize(("ahead", "weak"), [(3e-6, [True, False]), (5e-6, [False, True])])
def test_the_first_of_two_tokens_is_weak_while_its_lead_is_under_the_slope(
    interpreter: Any, ahead: float, weak: list[bool]
) -> None:
    # sigmoid(±2q) is 0.5 ± q/2 for a small q: the first token's density is higher by q. The slope is 3.8e-6.
    router = token_router((0.0, 0.0, ahead, -ahead), ratio=0.5)
    inputs = rows([UP, DOWN], [UP])
    for name, found in outcomes(router, inputs, interpreter).items():
        assert np.asarray(found.gate[0, :2] > 0).tolist() == weak, name


def test_the_first_of_equal_sources_is_ahead_by_one_slope(interpreter: Any) -> None:
    router = token_router((0.0,) * HIDDEN, ratio=1.0, top_k=1)
    for name, found in outcomes(router, rows([UP], [DOWN, DOWN]), interpreter).items():
        assert float(found.margin[0, 0]) == pytest.approx(2.0**-14, abs=TOLERANCE), name
        assert int(found.indices[0, 0, 0]) == 1, name


def test_a_source_without_information_is_as_far_behind_as_the_floor(interpreter: Any) -> None:
    # Densities sigmoid(40) = 1 and sigmoid(-40) = 4e-18.
    router = token_router((0.0, 0.0, 20.0, -20.0), ratio=1.0, top_k=1)
    expected = -math.log(1e-6) + 2.0**-14
    for name, found in outcomes(router, rows([DOWN], [UP, DOWN]), interpreter).items():
        # Similarities reach 14, where float32 has a spacing of 1e-6.
        assert float(found.margin[0, 0]) == pytest.approx(expected, abs=4e-6), name


def test_the_epsilon_halves_the_square_of_a_small_token(interpreter: Any) -> None:
    # Its variance is the epsilon, so that each channel becomes 1/√2; the head makes odds of 3 to 1 of it.
    router = token_router((math.sqrt(2) * math.log(3), 0.0, 0.0, 0.0))
    small = tuple(math.sqrt(1e-5) * value for value in UP)
    for name, found in outcomes(router, rows([small], [UP]), interpreter).items():
        assert float(found.scores[0, 0]) == pytest.approx(0.75, abs=TOLERANCE), name


def test_a_token_without_energy_is_divided_by_the_floor(interpreter: Any) -> None:
    # Four shares of 1e-32 / 1e-30 each.
    router = token_router((), density="entropy")
    expected = -4 * 0.01 * math.log(0.01) / math.log(4)
    for name, found in outcomes(router, rows([(1e-16,) * 4], [UP]), interpreter).items():
        assert float(found.scores[0, 0]) == pytest.approx(expected, abs=TOLERANCE), name


@pytest.mark.parametrize(("value", "score"), [(5e37, 0.5), (2e38, 0.0)])
def test_a_side_whose_sum_float32_cannot_hold_is_not_routed(
    interpreter: Any, value: float, score: float
) -> None:
    router = token_router((0.0,) * HIDDEN)
    with np.errstate(over="ignore", invalid="ignore"):
        found = outcomes(router, rows([(value,) * 4], [UP]), interpreter)
    del found["numpy"]  # which looks for elements, not sums, that are not finite
    for name, result in found.items():
        # Of the other side: whether the sample is routed at all.
        assert float(result.scores[0, 1]) == pytest.approx(score, abs=TOLERANCE), name


def test_tokens_that_are_not_there_are_neither_weak_nor_sources(interpreter: Any) -> None:
    router = token_router((0.0,) * HIDDEN, ratio=1.0, top_k=2)
    inputs = rows([UP, DOWN], [UP, DOWN])
    inputs[1][0, 0], inputs[3][0, 1] = -1, False
    for name, found in outcomes(router, inputs, interpreter).items():
        assert np.asarray(found.gate[0] > 0).tolist() == [False, True, True, False], name
        assert np.asarray(found.indices[0, 1]).tolist() == [2, -1], name
        assert float(found.margin[0, 1]) == 0, name


@pytest.mark.parametrize(
    ("own", "source", "expected"),
    [
        (1.0, 1000.0, 0.5 * 0.1 * 1000 + 0.5),
        (1.0, 0.001, 0.5 * 10 * 0.001 + 0.5),
        # The root of the floor is 1e-6, which the source's 2e-6 is scaled to.
        (0.0, 2e-6, 0.5 * 0.5 * 2e-6),
    ],
)
def test_a_channel_is_scaled_within_its_limits(own: float, source: float, expected: float) -> None:
    router = build_router(RouterConfig(kind="channel", ratio=0.25), HIDDEN).eval()
    inputs = rows([(own, 7.0, 7.0, 7.0)], [(source, 5.0, 5.0, 5.0)])
    for name, found in outcomes(router, inputs, None).items():
        # A few units in the last place of float32.
        assert float(found.inputs_embeds[0, 0, 0]) == pytest.approx(expected, rel=1e-6), name


def test_a_channel_score_divides_by_the_floor() -> None:
    router = build_router(RouterConfig(kind="channel", ratio=0.25), HIDDEN).eval()
    for name, found in outcomes(router, rows([(1e-16,) * 4], [UP]), None).items():
        assert float(found.scores[0, 0]) == pytest.approx(1 - 1e-32 / 1e-30, abs=TOLERANCE), name
