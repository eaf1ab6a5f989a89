"""MMPareto: each branch's weights follow a direction that serves the joint loss and the branch's own loss alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moir_edge.tuning.balancing.branches import BRANCHES, branch_weights
from moir_edge.tuning.balancing.method import BalanceMethod
from moir_edge.tuning.loss import answer_loss

__all__ = ["GAMMA", "MmPareto", "combined", "joint_weight"]

GAMMA = 1.5
"""γ of the authors' code, by which the gradients of a branch are enlarged."""


def joint_weight(joint: Tensor, own: Tensor) -> float:
    """Return the weight of the joint gradient; that of the branch's own one is 1 minus it.

    ½ where the cosine of the two is positive. Else it is the weight with which w·joint + (1 − w)·own is shortest.

    Args:
        joint: Gradient of the joint loss, a vector.
        own: Gradient of the branch's own loss, a vector.
    """
    if float(joint @ own) > 0:
        return 0.5
    between = joint - own
    length = float(between @ between)
    if length == 0:  # both are zero
        return 0.5
    return min(1.0, max(0.0, float(own @ (own - joint)) / length))


def combined(joint: Tensor, own: Tensor) -> tuple[Tensor, float]:
    """Return γ·s·(2w·joint + 2(1 − w)·own) and w; s ≥ 1 brings it to the length of joint + own where it is shorter.

    Args:
        joint: Gradient of the joint loss, a vector.
        own: Gradient of the branch's own loss, a vector.
    """
    weight = joint_weight(joint, own)
    mixed = 2 * weight * joint + 2 * (1 - weight) * own
    length, wanted = float(mixed.norm()), float((joint + own).norm())
    scale = wanted / length if 0 < length < wanted else 1.0
    return GAMMA * scale * mixed, weight


class MmPareto(BalanceMethod):
    """Replaces the gradients of each branch's weights; weights that serve both get those of the sum of all losses.

    The loss of a step is the sum of the answers' loss and of the losses with each branch alone: two more forward and
    backward passes.

    Carried over: the paper's unimodal heads are the language model itself, which sees one branch alone. A branch's
    weights are taken for one vector, where the authors' code takes the lengths weight by weight.

    Source: Wei and Hu, ICML 2024 (arXiv 2405.17730).
    """

    name = "mmpareto"

    def __init__(self, model: PreTrainedModel) -> None:
        self._weights = branch_weights(model, self.name)
        super().__init__(model)
        self._joint_weights: dict[str, float] = {}

    def loss(self, answers: Tensor, inputs: Mapping[str, Any], logits: Tensor) -> Tensor:
        """Return the sum of the losses, whose gradients are the combined ones."""
        if not answers.requires_grad:  # nothing in this batch is routed
            return answers
        trained = [weight for weight in self._model.parameters() if weight.requires_grad]
        joint = total = _gradients(answers, trained)
        value, mixed = answers.detach(), dict[int, Tensor]()
        for branch in BRANCHES:
            alone = answer_loss(self.branch_logits(branch, inputs), inputs["labels"])
            own = _gradients(alone, trained)
            mixed |= self._mixed(branch, trained, joint, own)
            total = [before + more for before, more in zip(total, own, strict=True)]
            value = value + alone.detach()
        return _with_gradients(
            value,
            [
                (weight, mixed.get(id(weight), one))
                for weight, one in zip(trained, total, strict=True)
            ],
        )

    def _mixed(
        self, branch: str, trained: list[nn.Parameter], joint: list[Tensor], own: list[Tensor]
    ) -> dict[int, Tensor]:
        """Return the combined gradient of each weight of a branch, by the weight's id."""
        ours = {id(weight) for weight in self._weights[branch]}
        at = [i for i, weight in enumerate(trained) if id(weight) in ours]
        flat = (torch.cat([part[i].flatten() for i in at]) for part in (joint, own))
        vector, self._joint_weights[branch] = combined(*flat)
        pieces = torch.split(vector, [trained[i].numel() for i in at])
        return {
            id(trained[i]): piece.view_as(trained[i]) for i, piece in zip(at, pieces, strict=True)
        }

    def record(self) -> dict[str, float]:
        """Return the weight of the joint gradient in both branches."""
        return {f"joint_weight_{branch}": one for branch, one in self._joint_weights.items()}


def _gradients(loss: Tensor, weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the gradients, zero where a weight has none; the graph stays, since objectives may read its outputs."""
    found = torch.autograd.grad(loss, weights, retain_graph=True, materialize_grads=True)
    return list(found)


def _with_gradients(value: Tensor, gradients: Sequence[tuple[nn.Parameter, Tensor]]) -> Tensor:
    """Return a loss of this value whose backward pass gives the weights these gradients."""
    linear = torch.stack([(weight * one).sum() for weight, one in gradients]).sum()
    return value + (linear - linear.detach())
