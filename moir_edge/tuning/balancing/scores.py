"""Scores of the two branches: the probability of the answers with each one alone, without gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from moir_edge.tuning.balancing.branches import BRANCHES
from moir_edge.tuning.balancing.method import BalanceMethod
from moir_edge.tuning.loss import row_losses

__all__ = ["answer_scores"]


@torch.no_grad()
def answer_scores(method: BalanceMethod, inputs: Mapping[str, Any]) -> dict[str, float]:
    """Return Σ over rows of exp(−L) per branch, L being the row's loss with that branch alone; two forward passes.

    exp(−L) is the geometric mean of the probabilities of the answer's tokens: for a one-token answer its
    probability, which the papers sum.

    Args:
        method: Reaches the model's rows.
        inputs: What the model is called with, labels included.
    """
    return {
        branch: float(
            torch.exp(-row_losses(method.branch_logits(branch, inputs), inputs["labels"])).sum()
        )
        for branch in BRANCHES
    }
