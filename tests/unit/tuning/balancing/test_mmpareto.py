"""MMPareto: two vectors worked by hand, and a step against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from moir_edge.tuning.adapters import Adapters, train_only
from moir_edge.tuning.balancing.mmpareto import GAMMA, MmPareto, combined, joint_weight
from moir_edge.tuning.loss import answer_loss


@pytest.mark.parametrize(
    ("joint", "own", "weight"),
    [
        ((1.0, 0.0), (1.0, 1.0), 0.5),  # 45°: no conflict
        ((1.0, 0.0), (-1.0, 0.0), 0.5),  # opposite and of one length: the middle is zero
        ((1.0, 0.0), (-3.0, 0.0), 0.75),  # w − 3(1 − w) = 0
        ((1.0, 0.0), (0.0, 2.0), 0.8),  # right angle: w·1 = (1 − w)·4
        ((0.0, 0.0), (0.0, 0.0), 0.5),
        ((0.0, 0.0), (2.0, 0.0), 1.0),  # zero is the shortest
    ],
)
def test_weight_of_the_joint_gradient(
    joint: tuple[float, ...], own: tuple[float, ...], weight: float
) -> None:
    assert joint_weight(torch.tensor(joint), torch.tensor(own)) == pytest.approx(weight)


def test_without_conflict_it_is_the_enlarged_sum() -> None:
    got, weight = combined(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))
    assert weight == 0.5
    assert got.tolist() == [3.0, 1.5]


def test_in_conflict_it_is_brought_to_the_length_of_the_sum() -> None:
    # right angle: 2·0.8·(1, 0) + 2·0.2·(0, 2) = (1.6, 0.8), of length √3.2; the sum (1, 2) has √5
    got, _ = combined(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
    expected = GAMMA * np.sqrt(5 / 3.2) * np.array([1.6, 0.8])
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)  # a few float32 products
    # opposite, 1 against 3: the shortest is zero, and a length cannot be given to it
    nothing, _ = combined(torch.tensor([1.0, 0.0]), torch.tensor([-3.0, 0.0]))
    assert nothing.tolist() == [0.0, 0.0]


def test_a_step_against_numpy(both: Any, batch: dict[str, Any]) -> None:
    Adapters(both, rank=2, seed=0)
    train_only(both, "lora")
    method = MmPareto(both)
    weights = {name: one for name, one in both.named_parameters() if one.requires_grad}

    def gradients(logits: torch.Tensor) -> dict[str, np.ndarray[Any, Any]]:
        both.zero_grad()
        answer_loss(logits, batch["labels"]).backward()
        zeros = {name: torch.zeros_like(one) for name, one in weights.items()}
        return {
            name: (zeros[name] if one.grad is None else one.grad).double().numpy().copy()
            for name, one in weights.items()
        }

    joint = gradients(both(**batch).logits)
    alone = {side: gradients(method.branch_logits(side, batch)) for side in ("image", "text")}
    both.zero_grad()
    logits = both(**batch).logits
    answers = answer_loss(logits, batch["labels"])
    loss = method.loss(answers, batch, logits)
    loss.backward()
    losses = [answer_loss(method.branch_logits(side, batch), batch["labels"]) for side in alone]
    assert loss.item() == pytest.approx(answers.item() + sum(one.item() for one in losses))
    record = method.record()
    for side, own in alone.items():
        names = [name for name in weights if name.startswith(f"moir_router.{side}.")]
        g, h = (np.concatenate([part[name].ravel() for name in names]) for part in (joint, own))
        weight = 0.5 if g @ h > 0 else np.clip(h @ (h - g) / ((g - h) @ (g - h)), 0, 1)
        mixed = 2 * weight * g + 2 * (1 - weight) * h
        mixed *= GAMMA * max(1.0, np.linalg.norm(g + h) / np.linalg.norm(mixed))
        got = np.concatenate([weights[name].grad.numpy().ravel() for name in names])
        assert record[f"joint_weight_{side}"] == pytest.approx(weight, abs=1e-4)
        # float32 against float64; where gradients conflict, their difference magnifies the rounding
        np.testing.assert_allclose(got, mixed, rtol=1e-3, atol=1e-4 * np.abs(mixed).max())
    for name, one in weights.items():
        if not name.startswith("moir_router."):  # adapters serve both branches
            expected = joint[name] + alone["image"][name] + alone["text"][name]
            tolerance = 1e-4 * np.abs(expected).max() + 1e-9  # float32 sums
            np.testing.assert_allclose(one.grad.numpy(), expected, rtol=0, atol=tolerance)
