"""The channel and gate routers: what they compute, and the guarantees they share with the token router."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from moir_edge.errors import ShapeError
from moir_edge.ops.reference_router import route
from moir_edge.router import InformationRouter, Router, RouterConfig, RouterOutput, build_router
from moir_edge.router.channel import channel_energy

HIDDEN, LENGTH, IMAGES, TEXTS = 24, 14, 5, 6
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
KINDS = ("channel", "gate")
DIRECTIONS = ("both", "text-to-image", "image-to-text")
# float32 sums of 48 products in another order differ by a few units in the last place of values near 10.
TOLERANCE = 2e-5


def awake(kind: Any, **settings: Any) -> Router:
    """A router as training would leave it: no weight is at its start."""
    torch.manual_seed(0)
    router = build_router(RouterConfig(kind=kind, **settings), HIDDEN).eval()
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
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


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_router_equals_the_numpy_reference(kind: Any, direction: Any) -> None:
    router, inputs = awake(kind, direction=direction), two_samples()
    output: RouterOutput = router(*inputs)
    weights = {name: item.detach().numpy() for name, item in router.state_dict().items()}
    expected = route(weights, router.config, *(item.numpy() for item in inputs))  # type: ignore[arg-type]
    for name in ("inputs_embeds", "scores", "indices", "margin", "gate"):
        np.testing.assert_allclose(
            getattr(output, name).detach(), getattr(expected, name), atol=TOLERANCE, rtol=0
        )
    assert (output.indices == -1).all()
    assert output.indices.shape == (2, IMAGES + TEXTS, 1)
    valid = torch.cat([inputs[1] >= 0, inputs[3]], dim=1)
    sides = (slice(None, IMAGES), slice(IMAGES, None))
    closed = {"image-to-text": 0, "text-to-image": 1}.get(direction)
    for side, part in enumerate(sides):
        assert torch.equal(output.gate[:, part] > 0, valid[:, part] & (side != closed))
    rest = torch.ones(2, LENGTH, dtype=torch.bool)
    for sample in range(2):
        rest[sample, inputs[1][sample][inputs[1][sample] >= 0]] = False
        rest[sample, inputs[2][sample][inputs[3][sample]]] = False
    assert torch.equal(output.inputs_embeds[rest], inputs[0][rest])


@pytest.mark.parametrize("tokens", [2, 9, 40])
def test_channel_energy_is_the_svd_score_with_nothing_truncated(tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    rows = torch.randn(1, tokens, HIDDEN, generator=generator) * torch.linspace(0.1, 4, HIDDEN)
    centred = (rows[0] - rows[0].mean(dim=0)).double()
    _, sigma, vectors = torch.linalg.svd(centred, full_matrices=False)
    score = (sigma.square()[:, None] * vectors.square()).sum(dim=0)
    energy = channel_energy(rows, torch.ones(1, tokens, dtype=torch.bool))[0]
    # Float32 mean and sum over 40 tokens at most: some ten units in the last place (1.2e-7), ten times over.
    torch.testing.assert_close(energy.double(), score, rtol=1e-5, atol=1e-6)


def test_truncated_svd_score_lies_below_the_energy() -> None:
    rows = torch.randn(12, HIDDEN, generator=torch.Generator().manual_seed(0))
    _, sigma, vectors = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    truncated = (sigma[:4].square()[:, None] * vectors[:4].square()).sum(dim=0)
    energy = channel_energy(rows[None], torch.ones(1, 12, dtype=torch.bool))[0]
    assert (truncated < energy).all()


def hand_case(image: list[list[float]], text: list[list[float]]) -> Inputs:
    embeds = torch.tensor([image + text])
    images = torch.arange(len(image))[None]
    texts = torch.arange(len(image), len(image) + len(text))[None]
    return embeds, images, texts, torch.ones(1, len(text), dtype=torch.bool)


def test_fresh_channel_router_exchanges_half_of_the_weak_channel() -> None:
    # Channel 1 varies least among the image tokens, channel 0 among the text tokens.
    image = [[1.0, 2.0, 0.0, 4.0], [5.0, 2.0, 6.0, 0.0]]
    text = [[3.0, 0.0, 1.0, 9.0], [3.0, 8.0, 7.0, 1.0]]
    config = RouterConfig(kind="channel", ratio=0.25)
    output = build_router(config, 4)(*hand_case(image, text))
    routed = output.inputs_embeds[0].tolist()
    # Image: source mean 4, own RMS 2, so matched 2: ½·2 + ½·2. Text: source mean 3, own RMS 3, matched 3.
    assert [row[1] for row in routed[:2]] == pytest.approx([2.0, 2.0])
    assert [row[0] for row in routed[2:]] == pytest.approx([3.0, 3.0])
    assert output.gate[0].tolist() == [0.5] * 4
    # Channel 1 holds 4 of the first token's 21.
    assert float(output.scores[0, 0]) == pytest.approx(1 - 4 / 21)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (100.0, 1.0, 0.5 * 100 + 0.5 * 10),  # scale 100 is cut to 10
        (1.0, 100.0, 0.5 * 1 + 0.5 * 10),  # scale 0.01 is cut to 0.1
        (1.0, -2.0, 0.5 * 1 - 0.5 * 1),  # scale ½; the sign stays
    ],
)
def test_scale_of_the_source_is_clamped(own: float, other: float, expected: float) -> None:
    image = [[own, 0.0, 1.0, 2.0], [own, 5.0, 7.0, 9.0]]
    text = [[other, 1.0, 2.0, 3.0], [other, 8.0, 6.0, 9.0]]
    config = RouterConfig(kind="channel", ratio=0.25, direction="text-to-image")
    output = build_router(config, 4)(*hand_case(image, text))
    assert output.inputs_embeds[0, :2, 0].tolist() == pytest.approx([expected] * 2)
    assert torch.equal(output.inputs_embeds[0, 2:], torch.tensor(text))


def test_source_is_read_before_any_routing() -> None:
    router, inputs = awake("gate"), two_samples()
    both = router(*inputs).inputs_embeds
    for direction in DIRECTIONS[1:]:
        one = awake("gate", direction=direction)
        one.load_state_dict(router.state_dict(), strict=False)
        single = one(*inputs).inputs_embeds
        changed = single != inputs[0]
        assert changed.any()
        assert torch.equal(single[changed], both[changed])


def test_information_router_fuses_as_published() -> None:
    torch.manual_seed(1)
    fusion = InformationRouter(6, 4, 5)
    visual, text = torch.randn(2, 3, 6), torch.randn(2, 3, 4)
    joint = torch.cat([visual, text], dim=-1)
    weights = torch.softmax(fusion.gate(joint), dim=-1)
    expected = fusion.projection(
        torch.cat([weights[..., :1] * visual, weights[..., 1:] * text], dim=-1)
    )
    assert torch.equal(fusion(visual, text), expected)
    assert fusion(visual, text).shape == (2, 3, 5)
    fusion(visual, text).sum().backward()
    assert all(item.grad is not None and item.grad.any() for item in fusion.parameters())
    with pytest.raises(ShapeError, match=r"expected \(…, 6\) and \(…, 4\)"):
        fusion(text, text)


def test_fresh_gate_router_changes_nothing_and_weighs_both_sides() -> None:
    torch.manual_seed(0)
    output = build_router(RouterConfig(kind="gate"), HIDDEN)(*(inputs := two_samples()))
    assert torch.equal(output.inputs_embeds, inputs[0])
    valid = torch.cat([inputs[1] >= 0, inputs[3]], dim=1)
    torch.testing.assert_close(output.scores + output.gate, valid.float())


@pytest.mark.parametrize("kind", KINDS)
def test_position_under_the_mask_has_no_effect(kind: str) -> None:
    router, inputs = awake(kind), two_samples()
    before = router(*inputs)
    inputs[2][1, -1] = 7
    assert torch.equal(before.inputs_embeds, router(*inputs).inputs_embeds)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("kind", KINDS)
def test_non_finite_side_leaves_its_sample_unchanged(kind: str, value: float, side: str) -> None:
    router, inputs = awake(kind), two_samples()
    clean = router(*inputs)
    inputs[0][0, inputs[1 if side == "image" else 2][0, 2], 3] = value
    output = router(*inputs)
    torch.testing.assert_close(
        output.inputs_embeds[0], inputs[0][0], atol=0, rtol=0, equal_nan=True
    )
    assert not output.gate[0].any()
    assert not output.scores[0].any()
    assert torch.equal(output.inputs_embeds[1], clean.inputs_embeds[1])


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("kind", KINDS)
def test_side_without_tokens_leaves_the_inputs_unchanged(kind: str, side: str) -> None:
    router, (embeds, images, texts, mask) = awake(kind), two_samples()
    if side == "image":
        images = torch.full_like(images, -1)
    else:
        mask = torch.zeros_like(mask)
    output = router(embeds, images, texts, mask)
    assert torch.equal(output.inputs_embeds, embeds)
    assert not output.gate.any()
    none = torch.zeros(2, 0, dtype=torch.long)
    assert torch.equal(router(embeds, none, texts, mask).inputs_embeds, embeds)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight_and_stay_finite_on_empty_rows(kind: str) -> None:
    router, inputs = awake(kind).train(), two_samples()
    embeds = inputs[0].clone()
    embeds[1] = 0.0
    embeds.requires_grad_()
    router(embeds, *inputs[1:]).inputs_embeds.square().sum().backward()
    assert embeds.grad is not None
    assert embeds.grad.isfinite().all()
    for name, parameter in router.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_model_is_scored_in_float32(kind: str, dtype: torch.dtype) -> None:
    router = awake(kind)
    embeds, *rest = two_samples()
    half = router(embeds.to(dtype), *rest)
    exact = router(embeds.to(dtype).float(), *rest)
    assert half.inputs_embeds.dtype == dtype
    assert half.scores.dtype == torch.float32
    assert torch.equal(half.scores, exact.scores)
    assert torch.equal(half.inputs_embeds, exact.inputs_embeds.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(router(embeds.to(dtype), *rest).gate, exact.gate)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_that_do_not_fit_are_refused(kind: str) -> None:
    embeds, images, texts, mask = two_samples()
    with pytest.raises(ShapeError, match=rf"{kind} router: got inputs_embeds \(2, 14, 23\)"):
        awake(kind)(embeds[..., :-1], images, texts, mask)
