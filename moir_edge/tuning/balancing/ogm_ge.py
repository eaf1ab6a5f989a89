"""On-the-fly gradient modulation with generalization enhancement: the branch that answers better alone learns slower."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moir_edge.tuning.balancing.branches import BRANCHES, branch_weights
from moir_edge.tuning.balancing.method import BalanceMethod
from moir_edge.tuning.balancing.scores import answer_scores

__all__ = ["ALPHA", "OgmGe", "modulation"]

ALPHA = 0.3
"""α of the authors' BalanceBenchmark; their scripts for single data sets have others, such as 0.8."""


def modulation(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the coefficient k of each branch: 1 − tanh(α·ρ) where ρ = its score over the other's is above 1, else 1.

    Args:
        scores: Of the two branches, at least 0.
    """
    least = min(scores.values())
    coefficients = {}
    for branch, score in scores.items():
        ratio = score / least if least > 0 else math.inf
        coefficients[branch] = 1.0 - math.tanh(ALPHA * ratio) if score > least else 1.0
    return coefficients


class OgmGe(BalanceMethod):
    """Multiplies the gradients of the dominant branch's weights by k, and adds noise to those of both branches.

    The score of a branch is the sum over rows of the probability of the answer, per token, with this branch alone. The
    noise on a matrix is Gaussian with the standard deviation of its own gradient, before modulation.

    Carried over: the weights of a branch are those of `branch_weights`, where the paper has an encoder for each
    modality. It modulates convolutions; here noise goes to matrices, and none to vectors. The paper scores a branch by
    its half of the last linear layer, which a language model lacks, so two forward passes without gradients score
    them. The authors modulate during a window of epochs, this class in all steps.

    Source: Peng et al., CVPR 2022 (arXiv 2203.15332), equations 8 to 11 and their code.
    """

    name = "ogm-ge"

    def __init__(self, model: PreTrainedModel) -> None:
        self._weights = branch_weights(model, self.name)
        super().__init__(model)
        self._scores: dict[str, float] = {}
        self._coefficients = dict.fromkeys(BRANCHES, 1.0)

    def loss(self, answers: Tensor, inputs: Mapping[str, Any], logits: Tensor) -> Tensor:
        """Score both branches and return the answers' loss."""
        self._scores = answer_scores(self, inputs)
        self._coefficients = modulation(self._scores)
        return answers

    def after_backward(self) -> None:
        """Modulate the gradients."""
        for branch, weights in self._weights.items():
            for weight in weights:
                if weight.grad is not None:
                    weight.grad = modulated(weight.grad, self._coefficients[branch])

    def record(self) -> dict[str, float]:
        """Return score and k of both branches."""
        scores = {f"score_{branch}": score for branch, score in self._scores.items()}
        return scores | {f"k_{branch}": one for branch, one in self._coefficients.items()}


def modulated(gradient: Tensor, coefficient: float) -> Tensor:
    """Return k·g + N(0, std(g)) for a matrix, and k·g for a vector, whose deviation says little."""
    if gradient.ndim < 2:
        return coefficient * gradient
    return coefficient * gradient + gradient.std() * torch.randn_like(gradient)
