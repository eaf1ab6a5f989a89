"""The weights of MWAM, and a training run in which the dominant branch loses share of the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moir_edge.errors import DataError, UnsupportedError
from moir_edge.tuning import BranchBalance, allocation_weight, frequency_ratio, scale_gradient
from moir_edge.tuning.balancing.allocation import check_mode


# Worked by hand from the formula, to three digits; two branches cannot go past T = 2.
@pytest.mark.parametrize(
    ("relative", "weight"), [(0, 1.485), (0.7, 1.0), (1, 0.642), (1.5, 0.508), (2, 0.500)]
)
def test_weights_of_the_formula(relative: float, weight: float) -> None:
    assert allocation_weight(relative) == pytest.approx(weight, abs=1e-3)


def test_running_ratio_forgets_by_halves() -> None:
    balance = BranchBalance()
    assert dict(balance.weights) == {}
    balance.update({"a": 4.0, "b": 1.0})
    balance.update({"a": 2.0, "b": 2.0})
    assert dict(balance.running) == {"a": 3.0, "b": 1.5}
    # T = 3/2.25 and 1.5/2.25
    assert balance.weights["a"] == pytest.approx(allocation_weight(4 / 3), abs=1e-5)
    assert balance.weights["b"] == pytest.approx(allocation_weight(2 / 3), abs=1e-5)


def test_state_goes_on_and_a_step_that_overflowed_is_skipped() -> None:
    first, second = BranchBalance(), BranchBalance()
    first.update({"a": 4.0, "b": 1.0})
    second.load_state(first.state())
    second.update({"a": float("inf"), "b": 1.0})
    assert second.running == first.running


def test_other_branches_and_unknown_modes_are_refused() -> None:
    balance = BranchBalance()
    balance.update({"a": 1.0, "b": 1.0})
    with pytest.raises(DataError, match="one BranchBalance per model"):
        balance.update({"a": 1.0})
    with pytest.raises(UnsupportedError, match="did you mean 'gradient'"):
        check_mode("gradients")


def _share_of_the_dominant_branch(*, balanced: bool, seed: int) -> float:
    """Train two encoders of 16×16 planes; return the smooth branch's mean share of the encoders' gradient norm."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(-1, 1, 16)[:, None] + torch.linspace(-1, 1, 16)
    encoders = nn.ModuleDict({name: nn.Conv2d(1, 1, 3, padding=1) for name in ("smooth", "rough")})
    head = nn.Linear(2 * 256, 1)
    for parameter in (*encoders.parameters(), *head.parameters()):
        nn.init.normal_(parameter, std=0.1, generator=generator)
    optimiser = torch.optim.SGD([*encoders.parameters(), *head.parameters()], lr=0.01)
    balance, shares = BranchBalance(), []
    for _ in range(20):
        label = torch.randint(0, 2, (16, 1), generator=generator).float()
        sign = (2 * label - 1)[..., None]
        inputs = {
            "smooth": sign * ramp + 0.05 * torch.randn(16, 16, 16, generator=generator),
            "rough": sign * 0.1 + torch.randn(16, 16, 16, generator=generator),
        }
        features = {name: encoders[name](plane[:, None])[:, 0] for name, plane in inputs.items()}
        if balanced:
            ratios = {name: float(frequency_ratio(value)) for name, value in features.items()}
            for name, weight in balance.update(ratios).items():
                scale_gradient(features[name], weight)
        logits = head(torch.cat([value.flatten(1) for value in features.values()], dim=1))
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logits, label).backward()
        norms = {name: encoders[name].weight.grad.norm().item() for name in inputs}
        shares.append(norms["smooth"] / sum(norms.values()))
        optimiser.step()
    return sum(shares) / len(shares)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dominant_branch_loses_share_of_the_gradient(seed: int) -> None:
    plain = _share_of_the_dominant_branch(balanced=False, seed=seed)
    balanced = _share_of_the_dominant_branch(balanced=True, seed=seed)
    assert plain > 0.5
    # K of a branch far above the mean is near 0.5, that of the other up to 1.5: a share s becomes s / (s + 3(1 − s))
    assert balanced < plain - 0.05
