"""On-the-fly prediction modulation: the branch that answers better alone is hidden now and then in the forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moir_edge.tuning.balancing.branches import BRANCHES
from moir_edge.tuning.balancing.method import BalanceMethod
from moir_edge.tuning.balancing.scores import answer_scores

__all__ = ["BASE", "EXECUTED", "LAMBDA", "Opm", "drop_probabilities"]

BASE = 0.5
"""q_base of the authors' script."""
LAMBDA = 0.5
"""λ of the authors' script."""
EXECUTED = 0.7
"""Share of the steps in which anything is dropped, p_exe of the authors' script."""


def drop_probabilities(scores: Mapping[str, float]) -> dict[str, float]:
    """Return q of each branch: q_base · (1 + λ·tanh(ρ − 1)) where ρ = its score over the other's is above 1, else 0.

    Args:
        scores: Of the two branches, at least 0.
    """
    least = min(scores.values())
    probabilities = {}
    for branch, score in scores.items():
        ratio = score / least if least > 0 else math.inf
        dominant = score > least
        probabilities[branch] = BASE * (1 + LAMBDA * math.tanh(ratio - 1)) if dominant else 0.0
    return probabilities


class Opm(BalanceMethod):
    """Hides the rows of the dominant branch with probability q, drawn for each sample of a step that drops at all.

    Scores are those of OGM-GE, from two forward passes without gradients.

    Carried over: a dropped branch's rows are zero, as the paper's features are. The paper divides the kept features by the
    mean share that is kept, so that the head sees the same size; here the norm ahead of each layer does that. The
    paper warms up for five epochs, and this class does not.

    Source: Wei et al., "On-the-fly modulation for balanced multimodal learning", TPAMI 2024 (arXiv 2410.11582).
    """

    name = "opm"

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._scores: dict[str, float] = {}
        self._probabilities = dict.fromkeys(BRANCHES, 0.0)

    def before_forward(self, inputs: Mapping[str, Any]) -> None:
        """Score both branches and draw what this step hides."""
        self._scores = answer_scores(self, inputs)
        self._probabilities = drop_probabilities(self._scores)
        if float(torch.rand(())) < EXECUTED:
            count = len(inputs["labels"])
            dropped = {
                branch: torch.rand(count) < probability
                for branch, probability in self._probabilities.items()
            }
            self.rows.change = lambda embeds, rows: _without(embeds, rows, dropped)

    def loss(self, answers: Tensor, inputs: Mapping[str, Any], logits: Tensor) -> Tensor:
        """Return the answers' loss; what follows in this step sees all rows."""
        self.rows.change = None
        return answers

    def record(self) -> dict[str, float]:
        """Return score and q of both branches."""
        scores = {f"score_{branch}": score for branch, score in self._scores.items()}
        return scores | {f"q_{branch}": one for branch, one in self._probabilities.items()}


def _without(embeds: Tensor, rows: Mapping[str, Tensor], dropped: Mapping[str, Tensor]) -> Tensor:
    """Return the rows with those of dropped branches zero, sample by sample."""
    for branch, samples in dropped.items():
        hidden = rows[branch] & samples.to(embeds.device)[:, None]
        embeds = embeds.masked_fill(hidden[..., None], 0.0)
    return embeds
