"""Functional entropy: answers are to depend on both modalities, so that noise on either changes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import RemovableHandle

from moir_edge.tuning.balancing.branches import BRANCHES, BranchRows
from moir_edge.tuning.loss import answer_cross_entropies
from moir_edge.tuning.objectives import Objective, Step

__all__ = ["WEIGHT", "FunctionalEntropy", "information", "perturbed"]

WEIGHT = 1e-4
"""The authors' 1e-10 fits the scale of their features. On the demo the term is some tens, so that it is about 1 % of the loss."""
FLOOR = 1e-12
"""Least f and least information that are divided by: a sure answer has an f of zero."""


class FunctionalEntropy(Objective):
    """‖(1/I_image, 1/I_text)‖₂, I_m being the functional Fisher information of the answers in modality m's rows.

    f is the cross-entropy of a row's answer tokens between the probabilities of the step and those with noise on all rows
    of both branches. The noise is Gaussian, with each channel's standard deviation over the branch's rows in the batch.
    I_m = E[‖∂f/∂rows_m‖² / f] bounds the functional entropy of f from above (log-Sobolev inequality). One more forward
    pass, which is differentiated twice.

    Carried over: the paper's inputs of a modality are its routed rows, since words have no gradient. f has the
    probabilities of the step for constants.

    Args:
        weight: Of the term in the sum with the answers' loss.

    Source: Gat et al., NeurIPS 2020 (arXiv 2010.10802).
    """

    name = "functional_entropy"

    def __init__(self, weight: float = WEIGHT) -> None:
        self.weight = weight
        self._rows: BranchRows | None = None

    def hooks(self, model: Any) -> Sequence[RemovableHandle]:
        """Put the hook that perturbs rows on the model."""
        self._rows = BranchRows(model)
        return [self._rows.handle]

    def loss(self, step: Step) -> Tensor:
        """Return the term; 0 for a batch that is not routed."""
        noisy: list[tuple[Tensor, Mapping[str, Tensor]]] = []

        def add_noise(embeds: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
            noisy.append((perturbed(embeds, rows), rows))
            return noisy[0][0]

        logits: Tensor = step.outputs.logits
        if self._rows is None:
            raise RuntimeError("functional entropy: `hooks` was not called")
        # fused attention has no second derivative
        with self._rows.changed(add_noise), sdpa_kernel(SDPBackend.MATH):
            changed = step.model(**step.inputs, use_cache=False).logits
        if not noisy:
            return logits.new_zeros((), dtype=torch.float32)
        entropies = answer_cross_entropies(logits.detach(), changed, step.inputs["labels"])
        found = information(entropies, *noisy[0])
        inverses = [1.0 / found[branch].clamp_min(FLOOR) for branch in BRANCHES]
        return torch.stack(inverses).square().sum().sqrt()


def perturbed(embeds: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
    """Return the rows of both branches with noise of each channel's deviation over the branch's rows.

    Args:
        embeds: (batch, sequence, hidden).
        rows: (batch, sequence) bool of each branch.
    """
    noise = torch.zeros_like(embeds)
    for one in rows.values():
        own = embeds.detach()[one].float()  # (rows, hidden)
        if not len(own):
            continue
        deviation = own.std(dim=0, correction=0)
        noise[one] = (deviation * torch.randn_like(own)).to(embeds.dtype)
    return embeds + noise


def information(entropies: Tensor, noisy: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return I of each branch, the mean over samples of ‖∂f/∂rows‖² / f, differentiable itself.

    Args:
        entropies: f, (batch,), a function of `noisy` in which no sample depends on another one's rows.
        noisy: (batch, sequence, hidden).
        rows: (batch, sequence) bool of each branch.
    """
    (gradient,) = torch.autograd.grad(entropies.sum(), noisy, create_graph=True)
    squares = gradient.float().square().sum(dim=-1)  # (batch, sequence)
    return {
        branch: ((squares * one).sum(dim=1) / entropies.clamp_min(FLOOR)).mean()
        for branch, one in rows.items()
    }
