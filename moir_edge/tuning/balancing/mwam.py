"""MWAM on a retrofitted model: image and text tokens are the two branches, measured as the language model gets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moir_edge.arguments import text
from moir_edge.checked import a_model, checked, required
from moir_edge.router import last_routing
from moir_edge.router.steps import read_rows
from moir_edge.tuning.balancing.allocation import (
    BranchBalance,
    Mode,
    check_mode,
    scale_gradient,
)
from moir_edge.tuning.balancing.branches import BRANCHES
from moir_edge.tuning.balancing.frequency import frequency_ratio
from moir_edge.tuning.balancing.method import BalanceMethod
from moir_edge.tuning.loss import answer_loss

__all__ = ["Mwam"]


class Mwam(BalanceMethod):
    """Modality weight allocation; a forward pre-hook behind the router's, active in training mode only.

    The features of a branch are its rows of the routed `inputs_embeds`. Their FRM is that of the plane tokens × channels of
    every sample. In the modes `gradient` and `hybrid`, the gradient of these rows is multiplied by K of their
    branch; answer, special and padding tokens belong to no branch and keep theirs. In `loss` and `hybrid`, the caller
    adds `auxiliary_loss`.

    Args:
        model: A model with a router; the hook is attached to it until `detach`.
        mode: What K scales.

    Raises:
        UnsupportedError: The model has no router, or the mode is unknown.

    Source: arXiv 2602.22644.
    """

    name = "mwam"

    @checked(model=a_model, mode=required(text))
    def __init__(self, model: PreTrainedModel, mode: Mode) -> None:
        check_mode(mode)
        super().__init__(model)
        self.mode = mode
        self.balance = BranchBalance()
        self.rows.change = self._weigh

    def record(self) -> dict[str, float]:
        """Return F̂ and K of both branches as `frm_image`, `frm_text`, `k_image`, `k_text`; empty before a step."""
        frm = {f"frm_{name}": value for name, value in self.balance.running.items()}
        return frm | {f"k_{name}": value for name, value in self.balance.weights.items()}

    def state(self) -> dict[str, float]:
        """Return the running ratios."""
        return self.balance.state()

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse ratios that are not numbers of at least 0."""
        BranchBalance().load_state(state)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from running ratios."""
        self.balance.load_state(state)

    def loss(self, answers: Tensor, inputs: Mapping[str, Any], logits: Tensor) -> Tensor:
        """Return the answers' loss, with the branches' own losses where the mode has them."""
        return answers if self.mode == "gradient" else answers + self.auxiliary_loss(inputs)

    def auxiliary_loss(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return Σ_m K_m · L_m, L_m being the task loss with the other branch's routed rows set to zero.

        Two more forward passes; call it after the forward pass of the step, which sets K.

        Args:
            inputs: What the model was called with, labels included.
        """
        weights = self.balance.weights
        losses = [
            weights.get(branch, 1.0)
            * answer_loss(self.branch_logits(branch, inputs), inputs["labels"])
            for branch in BRANCHES
        ]
        return torch.stack(losses).sum()

    def _weigh(self, embeds: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        """Update F̂ and, if the mode says so, scale the gradients of both branches; the rows stay as they are."""
        routing = last_routing(self._model)
        if routing is None or not all(bool(one.any()) for one in rows.values()):
            return embeds
        sides = {
            "image": (routing.image_positions, routing.image_positions >= 0),
            "text": (routing.text_positions, routing.text_mask),
        }
        ratios = {
            branch: float(frequency_ratio(read_rows(embeds.detach(), positions, valid), valid))
            for branch, (positions, valid) in sides.items()
        }
        weights = self.balance.update(ratios)
        if self.mode == "loss" or not weights:
            return embeds
        factor = embeds.new_ones(embeds.shape[:2])
        for branch, one in rows.items():
            factor = factor.masked_fill(one, weights[branch])
        scale_gradient(embeds, factor[..., None])
        return embeds
