"""Shapley-guided alternation: values by hand, the order of a round, and its state."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moir_edge.errors import DataError
from moir_edge.tuning.balancing.shapley import ShapleyAlternation, contributions
from moir_edge.tuning.loss import answer_loss, answers_correct


# ½ (own + both − other): the two sum up to the value of both
@pytest.mark.parametrize(
    ("both", "image", "text", "expected"),
    [
        (2.0, 0.0, 0.0, (1.0, 1.0)),  # right only together
        (2.0, 1.0, 0.0, (1.5, 0.5)),
        (0.0, 0.0, 1.0, (-0.5, 0.5)),  # the image misleads
        (1.0, 0.25, 0.5, (0.375, 0.625)),
    ],
)
def test_values_of_two_modalities(
    both: float, image: float, text: float, expected: tuple[float, float]
) -> None:
    got = contributions(both, image=image, text=text)
    assert (got["image"], got["text"]) == expected
    assert sum(got.values()) == both


def test_an_answer_is_right_when_all_its_tokens_are() -> None:
    labels = torch.tensor([[-100, -100, 1, 2], [-100, -100, 1, 2], [-100, -100, -100, 2]])
    logits = torch.nn.functional.one_hot(
        torch.tensor([[0, 1, 2, 0], [0, 1, 0, 0], [3, 3, 2, 1]]), 4
    ).float()
    assert answers_correct(logits, labels).tolist() == [True, False, True]


def _step(method: Any, model: Any, batch: dict[str, Any]) -> set[str]:
    """Make a step and return the sides of the router that have a gradient."""
    model.zero_grad()
    logits = model(**batch).logits
    method.loss(answer_loss(logits, batch["labels"]), batch, logits).backward()
    method.after_backward()
    return {name.split(".")[1] for name, one in model.named_parameters() if one.grad is not None}


def test_the_lesser_contribution_goes_first_and_the_other_one_second(
    both: Any, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    valued = iter([(0.0, 1.0), (1.0, 0.0)])

    def alone(self: Any, inputs: Any) -> dict[str, float]:
        return dict(zip(("image", "text"), next(valued), strict=True))

    monkeypatch.setattr(ShapleyAlternation, "_alone", alone)
    method = ShapleyAlternation(both)
    assert _step(method, both, batch) == {"image"}
    assert (method.record()["trained_image"], method.record()["trained_text"]) == (1.0, 0.0)
    resumed = ShapleyAlternation(both)
    resumed.load_state(method.state())
    assert _step(resumed, both, batch) == _step(method, both, batch) == {"text"}
    assert resumed.state() == method.state()
    assert _step(method, both, batch) == {"text"}  # the next round, valued anew
    assert next(valued, None) is None


def test_both_branches_are_valued_alone(both: Any, batch: dict[str, Any]) -> None:
    method = ShapleyAlternation(both)
    logits = both(**batch).logits
    method.loss(answer_loss(logits, batch["labels"]), batch, logits)
    shares = {}
    for branch in ("image", "text"):
        with torch.no_grad():
            alone = method.branch_logits(branch, batch)
        shares[branch] = answers_correct(alone, batch["labels"]).float().mean().item()
    together = 2 * answers_correct(logits, batch["labels"]).float().mean().item()
    expected = contributions(together, **shares)
    record = method.record()
    assert {branch: record[f"phi_{branch}"] for branch in expected} == expected


@pytest.mark.parametrize("value", [float("nan"), 2, -1, 10**400, "0.5", None, True])
def test_a_damaged_state_is_refused(both: Any, value: Any) -> None:
    state = {"phi_image": 0.5, "phi_text": value, "due_image": 0.0, "due_text": 1.0}
    method = ShapleyAlternation(both)
    with pytest.raises(DataError, match=r"^shapley-alternation: phi_text is .*; expected a number"):
        method.load_state(state)
    with pytest.raises(
        DataError, match=r"^shapley-alternation: got \[\], expected \['due_image', "
    ):
        method.check_state({})
