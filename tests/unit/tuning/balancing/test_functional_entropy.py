"""Functional entropy: information of a linear function by hand, the noise, and a step that is differentiated twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from moir_edge.tuning.balancing.functional_entropy import (
    FunctionalEntropy,
    information,
    perturbed,
)
from moir_edge.tuning.loss import answer_cross_entropies
from moir_edge.tuning.objectives import Step, attached

ROWS = {
    "image": torch.tensor([[True, True, False, False], [True, False, False, False]]),
    "text": torch.tensor([[False, False, True, False], [False, True, True, False]]),
}


def test_information_of_a_linear_function_by_hand() -> None:
    rows = torch.zeros(2, 4, 2, requires_grad=True)
    slope = torch.tensor([[[1.0, 2.0], [0.0, 1.0], [3.0, 0.0], [9.0, 9.0]]]).expand(2, 4, 2)
    values = (rows * slope).sum(dim=(1, 2)) + torch.tensor([2.0, 5.0])
    found = information(values, rows, ROWS)
    # image: (1 + 4 + 0 + 1)/2 and (1 + 4)/5; text: 9/2 and (1 + 9)/5; answer rows count for neither
    assert found["image"].item() == pytest.approx((3.0 + 1.0) / 2)
    assert found["text"].item() == pytest.approx((4.5 + 2.0) / 2)


def test_noise_has_the_deviation_of_the_branch_and_spares_other_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 4000, 2, generator=generator) * torch.tensor([1.0, 10.0])
    image = torch.arange(4000).expand(2, 4000) < 2000
    rows = {"image": image, "text": torch.zeros_like(image)}
    embeds[:, :2000] *= 3
    torch.manual_seed(1)
    noise = perturbed(embeds, rows) - embeds
    assert not noise[:, 2000:].any()
    deviation = noise[:, :2000].flatten(0, 1).std(dim=0)
    # 4,000 draws: the deviation is off by 1/√8000, 1.1 %; three times that, for noise and embeddings
    assert deviation.tolist() == pytest.approx([3.0, 30.0], rel=0.05)


def test_cross_entropies_by_hand() -> None:
    labels = torch.tensor([[-100, 0, 1], [-100, -100, 1]])
    base = torch.log(torch.tensor([0.25, 0.75])).expand(2, 3, 2)
    other = torch.log(torch.tensor([0.5, 0.5])).expand(2, 3, 2)
    got = answer_cross_entropies(base, other, labels)
    assert got.tolist() == pytest.approx([0.693147, 0.693147])
    swapped = answer_cross_entropies(other, base, labels)
    # −½ ln 0.25 − ½ ln 0.75
    assert swapped.tolist() == pytest.approx([0.836988, 0.836988])


def test_a_step_gives_the_router_a_gradient_that_raises_the_information(
    both: Any, batch: dict[str, Any]
) -> None:
    objective = FunctionalEntropy(weight=1.0)
    with torch.no_grad():
        outputs = SimpleNamespace(logits=both(**batch).logits)
    step = Step(model=both, rows=(), inputs=batch, outputs=outputs, encode=lambda _: {})

    def value() -> torch.Tensor:
        torch.manual_seed(3)  # the same noise
        return objective.loss(step)

    with attached([objective], both):
        before = value()
        before.backward()
        slopes = [(one, one.grad.clone()) for one in both.moir_router.parameters()]
        length = torch.stack([slope.norm() for _, slope in slopes]).norm().item()
        assert length > 0
        ends = []
        for far in (1e-3, -1e-3):
            _move(slopes, far / length)
            ends.append(value().item())
            _move(slopes, -far / length)
    # a central difference along the gradient; its error is of second order
    assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(length, rel=0.03)


def _move(slopes: list[tuple[torch.nn.Parameter, torch.Tensor]], far: float) -> None:
    with torch.no_grad():
        for weight, slope in slopes:
            weight += far * slope


def test_a_prompt_without_image_has_nothing_to_balance(both: Any, batch: dict[str, Any]) -> None:
    words = {
        name: torch.cat([batch[name][:, -5:]], dim=1)
        for name in ("input_ids", "attention_mask", "labels")
    }
    objective = FunctionalEntropy()
    outputs = SimpleNamespace(logits=both(**words).logits)
    step = Step(model=both, rows=(), inputs=words, outputs=outputs, encode=lambda _: {})
    with attached([objective], both):
        assert objective.loss(step).item() == 0
