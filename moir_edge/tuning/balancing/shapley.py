"""Shapley-guided alternation: one branch learns at a time, and that which contributes least to the answers goes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moir_edge.errors import DataError
from moir_edge.tuning.balancing.branches import BRANCHES, branch_weights, other_branch
from moir_edge.tuning.balancing.method import BalanceMethod
from moir_edge.tuning.loss import answers_correct

__all__ = ["ShapleyAlternation", "contributions"]

_FIRST = "first"


def contributions(both: float, image: float, text: float) -> dict[str, float]:
    """Return the Shapley value φ of each modality: the mean of its marginal contributions over both orders.

    V(S) is the number of modalities in S where the answer is right, else 0: 2, 1 or 0.

    Args:
        both: Mean of V over rows, with both modalities, in [0, 2].
        image: With the image alone, in [0, 1].
        text: With the text alone, in [0, 1].
    """
    return {"image": (image + both - text) / 2, "text": (text + both - image) / 2}


class ShapleyAlternation(BalanceMethod):
    """Rounds of two steps, each of which trains one branch's weights by the answers' loss; the other branch waits.

    At the start of a round the modalities are valued on its first batch, by two forward passes without gradients. The
    branch of the lesser value goes first. Weights that serve both branches are trained in every step.

    Carried over: the valuation of Wei et al., and from Shi et al. the alternation whose order is set by Shapley values.
    An answer is right when each of its tokens is the most likely one. Both papers train a branch on its modality
    alone, with a head of its own or a shared one; here it learns from the joint loss. The resampling of the
    former and the memory of the latter are left out.

    Source: Wei et al., CVPR 2024 (arXiv 2309.06255); Shi et al. 2025 (arXiv 2506.00030).
    """

    name = "shapley-alternation"

    def __init__(self, model: PreTrainedModel) -> None:
        self._weights = branch_weights(model, self.name)
        super().__init__(model)
        self._values: dict[str, float] = {}
        self._second: str | None = None
        self._trained = BRANCHES[0]

    def loss(self, answers: Tensor, inputs: Mapping[str, Any], logits: Tensor) -> Tensor:
        """Choose the branch that this step trains, and return the answers' loss."""
        if self._second is not None:
            self._trained, self._second = self._second, None
            return answers
        labels = inputs["labels"]
        both = 2 * float(answers_correct(logits, labels).float().mean())
        self._values = contributions(both, **self._alone(inputs))
        self._trained = min(BRANCHES, key=lambda branch: self._values[branch])
        self._second = other_branch(self._trained)
        return answers

    @torch.no_grad()
    def _alone(self, inputs: Mapping[str, Any]) -> dict[str, float]:
        return {
            branch: float(
                answers_correct(self.branch_logits(branch, inputs), inputs["labels"]).float().mean()
            )
            for branch in BRANCHES
        }

    def after_backward(self) -> None:
        """Take the gradients from the branch that waits; without one, AdamW leaves a weight and its moments alone."""
        for weight in self._weights[other_branch(self._trained)]:
            weight.grad = None

    def record(self) -> dict[str, float]:
        """Return φ of both modalities, and 1 for the branch that was trained."""
        trained = {f"trained_{branch}": float(branch == self._trained) for branch in BRANCHES}
        return {f"phi_{branch}": one for branch, one in self._values.items()} | trained

    def state(self) -> dict[str, float]:
        """Return φ of both modalities, and which branch is due as the second of a round, if one is."""
        due = {f"due_{branch}": float(branch == self._second) for branch in BRANCHES}
        return {f"phi_{branch}": one for branch, one in self._values.items()} | due

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse other values than `state` returns."""
        bounds = {f"phi_{branch}": (-0.5, 1.5) for branch in BRANCHES}
        bounds |= {f"due_{branch}": (0.0, 1.0) for branch in BRANCHES}
        if state.keys() != bounds.keys():
            raise DataError(f"{self.name}: got {sorted(state)}, expected {sorted(bounds)}")
        for name, (low, high) in bounds.items():
            value = state[name]
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not low <= value <= high:
                raise DataError(
                    f"{self.name}: {name} is {value!r:.40}; expected a number from {low:g} to {high:g}"
                )

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.check_state(state)
        self._values = {branch: float(state[f"phi_{branch}"]) for branch in BRANCHES}
        self._second = next((branch for branch in BRANCHES if state[f"due_{branch}"] == 1), None)
