from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from moir_edge.errors import ShapeError
from moir_edge.ops.reference_router import RoutedArrays, route
from moir_edge.router import RouterConfig, RouterOutput, TokenRouter
from moir_edge.router.steps import entropy_density

HIDDEN, LENGTH, IMAGES, TEXTS = 24, 14, 5, 6
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]

# float32 sums of 24 products in another order differ by a few units in the last place of values near 10.
TOLERANCE = 2e-5


def awake_router(config: RouterConfig, seed: int = 0) -> TokenRouter:
    """A router as training would leave it: no weight is zero."""
    torch.manual_seed(seed)
    router = TokenRouter(config, HIDDEN).eval()
    for name, parameter in router.named_parameters():
        if name.endswith(("up.weight", "blend")):
            torch.nn.init.normal_(parameter, std=0.3)
        if name.endswith(("gate_edge", "gate_slope")):
            # An edge near 0.6 and a slope near 1.8: some tokens of either score lie above, on and under the ramp.
            torch.nn.init.constant_(parameter, -0.04 if "edge" in name else 0.06)
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=float("weight" in name), std=0.1)
    return router


def two_samples(seed: int = 0) -> Inputs:
    """Embeddings, positions and mask; the second sample lacks two image tokens and one text token."""
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(2, LENGTH, HIDDEN, generator=generator)
    order = torch.stack([torch.randperm(LENGTH, generator=generator) for _ in range(2)])
    images = order[:, :IMAGES].sort(1).values
    texts = order[:, IMAGES : IMAGES + TEXTS].sort(1).values
    mask = torch.ones(2, TEXTS, dtype=torch.bool)
    images[1, -2:] = -1
    mask[1, -1], texts[1, -1] = False, 0
    return embeds, images, texts, mask


def reference(router: TokenRouter, inputs: Inputs) -> RoutedArrays:
    weights = {name: item.detach().numpy() for name, item in router.state_dict().items()}
    embeds, images, texts, mask = (item.numpy() for item in inputs)
    return route(weights, router.config, embeds, images, texts, mask)


def assert_same(ours: RouterOutput, expected: RoutedArrays) -> None:
    np.testing.assert_array_equal(ours.indices, expected.indices)
    for name in ("inputs_embeds", "scores", "margin", "gate"):
        np.testing.assert_allclose(
            getattr(ours, name).detach(), getattr(expected, name), atol=TOLERANCE, rtol=0
        )


@pytest.mark.parametrize("density", ["confidence", "entropy"])
@pytest.mark.parametrize("merge", ["add", "concat", "interpolate"])
@pytest.mark.parametrize("direction", ["both", "text-to-image", "image-to-text", "auto"])
@pytest.mark.parametrize(
    ("ratio", "threshold", "top_k"), [(0.5, None, 4), (None, 0.6, 1), (0.3, 0.5, 9)]
)
def test_router_equals_the_numpy_reference(
    density: Any, merge: Any, direction: Any, ratio: float, threshold: float, top_k: int
) -> None:
    config = RouterConfig(
        density=density,
        merge=merge,
        direction=direction,
        ratio=ratio,
        threshold=threshold,
        top_k=top_k,
        rank=8,
    )
    router, inputs = awake_router(config), two_samples()
    output = router(*inputs)
    assert_same(output, reference(router, inputs))
    open_sides = {"text-to-image": {0}, "image-to-text": {1}}.get(direction, {0, 1})
    sides = (output.indices[:, :IMAGES], output.indices[:, IMAGES:])
    for side, indices in enumerate(sides):
        assert side in open_sides or (indices == -1).all()


@pytest.mark.parametrize("density", ["confidence", "entropy"])
@pytest.mark.parametrize("merge", ["add", "concat", "interpolate"])
@pytest.mark.parametrize("direction", ["both", "text-to-image", "image-to-text", "auto"])
def test_learned_gate_equals_the_numpy_reference(density: Any, merge: Any, direction: Any) -> None:
    config = RouterConfig(
        density=density, merge=merge, direction=direction, learned_gate=True, rank=8
    )
    router, inputs = awake_router(config), two_samples()
    output = router(*inputs)
    assert_same(output, reference(router, inputs))
    assert torch.equal(router.train()(*inputs).gate, output.gate)


def test_learned_gate_by_hand() -> None:
    """clip(λ·(τ − s), 0, 1) with τ = 1 − 10 · 0.04 and λ = exp(10 · 0.06); rows above τ are left alone to the bit."""
    router, inputs = awake_router(RouterConfig(learned_gate=True, rank=8)), two_samples()
    output = router(*inputs)
    valid = torch.cat([inputs[1] >= 0, inputs[3]], dim=1)
    expected = (math.exp(0.6) * (0.6 - output.scores)).clamp(0, 1) * valid
    # one rounding of each step
    torch.testing.assert_close(output.gate, expected, atol=1e-6, rtol=0)
    closed = (output.scores > 0.6) & valid
    assert closed.any()
    assert (output.gate[valid & ~closed] > 0).all()
    assert (output.indices[closed] == -1).all()
    rows = torch.cat([inputs[1].clamp_min(0), inputs[2]], dim=1)
    batch = torch.arange(2)[:, None].expand_as(rows)
    same = output.inputs_embeds[batch, rows] == inputs[0][batch, rows]
    assert same[closed].all()


@pytest.mark.parametrize("density", ["confidence", "entropy"])
def test_learned_gate_starts_as_the_gate_that_is_open_on_all_tokens(density: Any) -> None:
    """Whatever is known of ρ = 1 holds at the start, bit for bit; a fresh router still changes nothing."""
    inputs = two_samples()
    outputs = []
    for settings in ({"learned_gate": True}, {"ratio": 1.0}):
        torch.manual_seed(3)
        router = TokenRouter(RouterConfig(rank=8, density=density, **settings), HIDDEN).eval()
        assert torch.equal(router(*inputs).inputs_embeds, inputs[0])
        for side in (router.image, router.text):
            torch.nn.init.normal_(
                side.up.weight, std=0.3, generator=torch.Generator().manual_seed(4)
            )
        outputs.append(router(*inputs))
    for name in ("inputs_embeds", "scores", "indices", "margin", "gate"):
        assert torch.equal(getattr(outputs[0], name), getattr(outputs[1], name)), name


def test_learned_gate_learns_edge_and_slope_of_the_enriched_side() -> None:
    config = RouterConfig(learned_gate=True, rank=8, direction="image-to-text")
    router, inputs = awake_router(config).train(), two_samples()
    names = {name for name, _ in router.named_parameters() if "gate_" in name}
    assert names == {"text.gate_edge", "text.gate_slope"}
    router(*inputs).inputs_embeds.square().sum().backward()
    assert all(item.grad.abs().sum() > 0 for _, item in router.named_parameters())


def test_position_under_the_mask_has_no_effect() -> None:
    router, inputs = awake_router(RouterConfig(rank=8)), two_samples()
    before = router(*inputs)
    inputs[2][1, -1] = 7
    after = router(*inputs)
    assert torch.equal(before.inputs_embeds, after.inputs_embeds)
    assert torch.equal(before.indices, after.indices)


@pytest.mark.parametrize("config", [RouterConfig(ratio=0.0), RouterConfig(ratio=1.0)])
def test_ratio_zero_routes_nothing_and_one_everything(config: RouterConfig) -> None:
    inputs = two_samples()
    output = awake_router(config)(*inputs)
    valid = torch.cat([inputs[1] >= 0, inputs[3]], dim=1)
    assert torch.equal(output.gate > 0, valid & (config.ratio == 1.0))
    assert torch.equal(output.inputs_embeds, inputs[0]) == (config.ratio == 0.0)


def test_repeated_tokens_prefer_the_first_copy() -> None:
    """Copies of a token score alike up to rounding, so the order must come from their place."""
    router = awake_router(RouterConfig(rank=8, ratio=0.5, top_k=2))
    embeds = torch.randn(1, 1, HIDDEN, generator=torch.Generator().manual_seed(1)).repeat(1, 80, 1)
    images, texts = torch.arange(40)[None], torch.arange(40, 80)[None]
    output = router(embeds, images, texts, torch.ones(1, 40, dtype=torch.bool))
    expected = ([1.0] * 20 + [0.0] * 20) * 2
    assert (output.gate[0] > 0).float().tolist() == expected
    assert output.indices[0, 0].tolist() == [40, 41]
    assert output.indices[0, 40].tolist() == [0, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["image", "text"])
def test_non_finite_side_leaves_its_sample_unchanged(value: float, side: str) -> None:
    router, inputs = awake_router(RouterConfig(rank=8)), two_samples()
    clean = router(*inputs)
    at = inputs[1 if side == "image" else 2][0, 2]
    inputs[0][0, at, 3] = value
    output = router(*inputs)
    torch.testing.assert_close(
        output.inputs_embeds[0], inputs[0][0], atol=0, rtol=0, equal_nan=True
    )
    assert (output.gate[0] == 0).all()
    assert (output.indices[0] == -1).all()
    assert torch.equal(output.inputs_embeds[1], clean.inputs_embeds[1])


def test_non_finite_token_that_takes_no_part_does_not_matter() -> None:
    router, inputs = awake_router(RouterConfig(rank=8)), two_samples()
    taken = {*inputs[1][0].tolist(), *inputs[2][0].tolist()}
    inputs[0][0, next(iter(set(range(LENGTH)) - taken))] = math.nan
    assert (router(*inputs).gate[0] > 0).any()


@pytest.mark.parametrize("side", ["image", "text"])
def test_side_without_tokens_leaves_the_inputs_unchanged(side: str) -> None:
    router, (embeds, images, texts, mask) = awake_router(RouterConfig(rank=8)), two_samples()
    if side == "image":
        images = torch.full_like(images, -1)
    else:
        mask = torch.zeros_like(mask)
    output = router(embeds, images, texts, mask)
    assert torch.equal(output.inputs_embeds, embeds)
    assert not output.gate.any()


def test_no_token_columns_at_all() -> None:
    embeds = torch.randn(1, 4, HIDDEN)
    none = torch.zeros(1, 0, dtype=torch.long)
    output = awake_router(RouterConfig(rank=8))(
        embeds, none, torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool)
    )
    assert torch.equal(output.inputs_embeds, embeds)
    assert output.indices.shape == (1, 2, 4)


def test_smooth_gate_tends_to_the_hard_one() -> None:
    inputs = two_samples()
    hard = awake_router(RouterConfig(rank=8, ratio=0.4, threshold=0.45))(*inputs).gate.detach()
    distances = []
    for temperature in (0.3, 0.03, 1e-7):
        router = awake_router(
            RouterConfig(rank=8, ratio=0.4, threshold=0.45, temperature=temperature)
        )
        gate = router.train()(*inputs).gate.detach()
        assert ((gate >= 0) & (gate <= 1)).all()
        distances.append(float((gate - hard).abs().max()))
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-6


def test_density_head_learns_through_the_gate_and_through_the_lookup() -> None:
    inputs = two_samples()
    router = awake_router(RouterConfig(rank=8, direction="text-to-image")).train()
    router(*inputs).inputs_embeds.square().sum().backward()
    # Image density acts through the gate alone, text density through log s_j alone.
    assert router.image.head.weight.grad.abs().sum() > 0
    assert router.text.head.weight.grad.abs().sum() > 0


def test_gradient_of_the_embeddings_is_right() -> None:
    router = awake_router(RouterConfig(rank=4, top_k=2)).train()
    inputs = two_samples()
    embeds = inputs[0].clone().requires_grad_()

    def loss(value: Tensor) -> Tensor:
        result: Tensor = router(value, *inputs[1:]).inputs_embeds.square().sum()
        return result

    loss(embeds).backward()
    direction = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(5))
    step = 1e-3
    with torch.no_grad():
        slope = (loss(embeds + step * direction) - loss(embeds - step * direction)) / (2 * step)
    assert embeds.grad is not None
    # Central differences in float32 with this step: rounding of a sum near 400 over 2e-3.
    assert float(slope) == pytest.approx(float((embeds.grad * direction).sum()), rel=2e-2, abs=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_model_is_scored_in_float32(dtype: torch.dtype) -> None:
    router = awake_router(RouterConfig(rank=8))
    embeds, *rest = two_samples()
    half = router(embeds.to(dtype), *rest)
    exact = router(embeds.to(dtype).float(), *rest)
    assert half.inputs_embeds.dtype == dtype
    assert half.scores.dtype == torch.float32
    assert torch.equal(half.scores, exact.scores)
    assert torch.equal(half.inputs_embeds, exact.inputs_embeds.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(router(embeds.to(dtype), *rest).margin, exact.margin)


@pytest.mark.parametrize(
    ("row", "expected"),
    [([1.0, -1.0, 1.0, 1.0], 1.0), ([0.0, 3.0, 0.0, 0.0], 0.0), ([0.0] * 4, 0.0)],
)
def test_entropy_density_of_known_rows(row: list[float], expected: float) -> None:
    assert float(entropy_density(torch.tensor(row))) == pytest.approx(expected, abs=1e-6)


def test_entropy_density_of_two_equal_channels_of_four() -> None:
    # Two of four channels hold all the energy: log 2 / log 4 = ½.
    assert float(entropy_density(torch.tensor([2.0, 0.0, -2.0, 0.0]))) == pytest.approx(0.5)


def test_shapes_that_do_not_fit_are_refused() -> None:
    router, (embeds, images, texts, mask) = awake_router(RouterConfig(rank=8)), two_samples()
    with pytest.raises(ShapeError, match=r"got inputs_embeds \(2, 14, 23\); expected .* 24\)"):
        router(embeds[..., :-1], images, texts, mask)
    with pytest.raises(ShapeError, match=r"text_mask \(2, 5\)"):
        router(embeds, images, texts, mask[:, :-1])
    with pytest.raises(ShapeError, match=r"image_positions \(1, 5\)"):
        router(embeds, images[:1], texts, mask)
