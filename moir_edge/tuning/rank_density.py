"""A density that means information: what a token shows ranks above the same token once its part of the picture is lost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moir_edge.data.degradations import parse_degradation
from moir_edge.data.rows import Row
from moir_edge.data.variants import ImageStore, degraded_rows
from moir_edge.errors import DataError
from moir_edge.router import TokenRouter
from moir_edge.router.attach import MODULE_NAME
from moir_edge.router.steps import read_rows
from moir_edge.tuning.objectives import Objective, Step
from moir_edge.tuning.router_inputs import router_inputs

__all__ = ["MASK", "RankDensity", "loss_of_content", "ranking_loss"]

MASK = "mask-region=0.3"
"""The degradation that every run ranks against: a region that shows nothing any more."""

_PAIRS = 16
"""Rows of a step that are ranked: the head has one weight per channel, and needs no more."""


def loss_of_content(clean: Tensor, degraded: Tensor) -> Tensor:
    """Return how much of each token a degradation took: 1 − correlation of its channels before and after, in [0, 2].

    Args:
        clean: (batch, tokens, hidden).
        degraded: The same tokens of the degraded picture.
    """
    before, after = (x - x.mean(dim=-1, keepdim=True) for x in (clean.float(), degraded.float()))
    return 1 - F.cosine_similarity(before, after, dim=-1)


def ranking_loss(clean: Tensor, degraded: Tensor, weights: Tensor) -> Tensor:
    """Return Σ w·log(1 + exp(z̃ − z)) / Σ w: the logistic loss of "the clean token ranks above the degraded one".

    Args:
        clean: z, logits of the density, any shape.
        degraded: z̃, the same of the degraded tokens.
        weights: w ≥ 0; where all are 0 nothing was lost, and the loss is 0.
    """
    total = weights.sum()
    if not bool(total > 0):
        return (clean * 0).sum()
    return (weights * F.softplus(degraded - clean)).sum() / total


class RankDensity(Objective):
    """Ranking of image tokens, each against itself in a degraded picture, weighted by what the degradation took of it.

    A cell that shows nothing loses nothing when it is masked, so its pair has no weight; but it looks like what masked
    cells have become, and those rank low. Neither labels nor pixel statistics are used. No gradient goes to the tokens:
    the objective teaches the router's density head and norm alone. Words are not ranked, because a dropped word leaves
    no token behind.

    Args:
        weight: Of the loss in the sum.
        model: Its router is checked.
        degrade: The run's degradations; a row's pair is made by one of those that change images, or by `MASK`.
        folder: For the degraded images; made if missing.
        seed: Of the draws. A row has the same pair whenever it comes up.

    Raises:
        DataError: The model's router has no density that can be learnt.
    """

    name = "rank_density"

    def __init__(
        self, weight: float, model: Any, degrade: Sequence[str], folder: Path, *, seed: int
    ) -> None:
        router = getattr(model, MODULE_NAME, None)
        if not isinstance(router, TokenRouter) or router.config.density != "confidence":
            kind = "no router" if router is None else f"a {router.config.kind} router"
            entropy = getattr(getattr(router, "config", None), "kind", None) == "token"
            raise DataError(
                f"tune: rank_density teaches the density head of a token router, but the checkpoint has {kind}"
                f"{' with density entropy' if entropy else ''}; retrofit it with kind token and density confidence"
            )
        self.weight = weight
        self._router = router
        parsed = [parse_degradation(text) for text in (MASK, *dict.fromkeys(degrade))]
        self._degradations = [one for one in parsed if one.kind.image_effect is not None]
        self._folder = folder
        self._seed = seed

    def loss(self, step: Step) -> Tensor:
        """Return the ranking loss; runs the vision tower once more on the pairs, without gradients."""
        rows = [row.original for row in step.rows[:_PAIRS]]
        inputs = step.encode([*rows, *self._degraded(rows)])
        found = router_inputs(step.model, inputs)
        present = found.image_positions >= 0
        tokens = read_rows(found.inputs_embeds, found.image_positions, present)
        with torch.autocast(device_type=tokens.device.type, enabled=False):
            clean, degraded = tokens.chunk(2)
            weights = loss_of_content(clean, degraded) * present.chunk(2)[0]
            high, low = self._router.density_logit("image", tokens).chunk(2)
            return ranking_loss(high, low, weights)

    def _degraded(self, rows: Sequence[Row]) -> list[Row]:
        self._folder.mkdir(exist_ok=True)
        store = ImageStore(self._folder)
        degraded: list[Row] = []
        for row in rows:
            drawn = random.Random(f"{self._seed}:rank_density:{row.id}").choice(self._degradations)
            degraded += degraded_rows([row], drawn, store, seed=self._seed).rows
        return degraded
