"""OGM-GE: coefficients worked by hand, and one step against its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from moir_edge.tuning.balancing.ogm_ge import OgmGe, modulation
from moir_edge.tuning.loss import answer_loss


# tanh(0.3 · 2) = 0.53705, tanh(0.3 · 4) = 0.83365, by a table
@pytest.mark.parametrize(
    ("image", "text", "expected"),
    [
        (4.0, 2.0, (1 - 0.53705, 1.0)),
        (1.0, 4.0, (1.0, 1 - 0.83365)),
        (3.0, 3.0, (1.0, 1.0)),
        (0.0, 2.0, (1.0, 0.0)),
        (0.0, 0.0, (1.0, 1.0)),
    ],
)
def test_the_better_branch_is_slowed(
    image: float, text: float, expected: tuple[float, float]
) -> None:
    got = modulation({"image": image, "text": text})
    assert (got["image"], got["text"]) == pytest.approx(expected, abs=1e-5)


def test_a_step_scales_the_gradients_and_adds_their_own_deviation(
    both: Any, batch: dict[str, Any]
) -> None:
    method = OgmGe(both)
    logits = both(**batch).logits
    answers = answer_loss(logits, batch["labels"])
    assert method.loss(answers, batch, logits) is answers
    answers.backward()
    plain = {name: weight.grad for name, weight in both.moir_router.named_parameters()}
    record = method.record()
    scores = {branch: record[f"score_{branch}"] for branch in ("image", "text")}
    assert all(0 < score < 2 for score in scores.values())  # two rows, a probability of each
    assert [record["k_image"], record["k_text"]] == list(modulation(scores).values())
    torch.manual_seed(5)
    method.after_backward()
    torch.manual_seed(5)
    sides = [*both.moir_router.image.named_parameters(), *both.moir_router.text.named_parameters()]
    assert len(sides) == len(plain)
    for (name, before), (_, weight) in zip(plain.items(), sides, strict=True):
        coefficient = record[f"k_{name.split('.')[0]}"]
        expected = coefficient * before
        if before.ndim > 1:
            expected = expected + before.std() * torch.randn(before.shape)
        # the same float32 products
        torch.testing.assert_close(weight.grad, expected, rtol=1e-6, atol=0)


def test_the_score_is_the_probability_of_the_answer_with_a_branch_alone(
    both: Any, batch: dict[str, Any]
) -> None:
    method = OgmGe(both)
    method.loss(torch.zeros(()), batch, torch.zeros(()))
    answer = batch["labels"] != -100
    assert answer.sum(dim=1).tolist() == [1, 1]  # so that no mean over tokens hides an error
    with torch.no_grad(), method.rows.alone("text"):
        logits = both(**batch).logits
    at = int(answer[0].nonzero()[0])
    chosen = torch.log_softmax(logits[:, at - 1].double(), dim=-1)[:, batch["labels"][0, at]]
    expected = sum(math.exp(value) for value in chosen.tolist())
    # float32 logits against float64 sums
    assert method.record()["score_text"] == pytest.approx(expected, rel=1e-4)
