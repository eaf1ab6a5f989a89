"""Controls of a router's own size: the same router with another look-up or none, and low-rank adapters without a router.

They answer what *routing* adds to the same rows, steps and number of weights. They are trained and measured here, never exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moir_edge.errors import DataError
from moir_edge.router import RouterConfig, TokenRouter
from moir_edge.router.base import Routed, Tokens

__all__ = ["ROUTERS", "become", "equal_config", "lora_ranks", "router_weights"]

_DRAWS_SEED = 0


class OwnModalityRouter(TokenRouter):
    """Words look up words: the weights that score and read image tokens do so on the text tokens themselves."""

    def enrich_sides(self, image: Tokens, text: Tokens) -> tuple[Routed, Routed]:
        """Enrich each word from the words of its own prompt, itself among them."""
        pictures, words = self._score(self.image, image), self._score(self.text, text)
        sources = self._score(self.image, text)
        return (
            self._enrich(self.image, pictures, self.text, words, 1.0),
            self._enrich(self.text, words, self.image, sources, 1.0),
        )


class RandomSourcesRouter(TokenRouter):
    """Each word reads k image tokens drawn at random, each as much as the others; nothing is compared.

    Draws come from torch's generator while training, and from one with a fixed seed at every evaluation.
    """

    def _look_up(
        self, own: Any, dst: Any, other: Any, src: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        k, (batch, sources) = self.config.top_k, src.density.shape
        generator = None
        if not self.training:
            generator = torch.Generator(src.density.device).manual_seed(_DRAWS_SEED)
        shape = (batch, dst.density.shape[1], sources)
        draws = torch.rand(shape, device=src.density.device, generator=generator)
        draws = F.pad(torch.where(src.valid[:, None], draws, -1.0), (0, k), value=-1.0)
        values, picks = torch.topk(draws, k, dim=-1)
        found = values >= 0
        weights = found.float() / found.sum(dim=-1, keepdim=True).clamp_min(1)
        return weights, picks.clamp_max(sources), found, torch.zeros_like(dst.density)


class NoLookUpRouter(TokenRouter):
    """An adapter: x + g · W_o W_d LN(x) on the words, which is what `concat` leaves without its looked-up part."""

    def _enrich(self, own: Any, dst: Any, other: Any, src: Any, is_open: Tensor | float) -> Routed:
        indices = dst.positions.new_full((*dst.positions.shape, self.config.top_k), -1)
        zeros = torch.zeros_like(dst.density)
        if not hasattr(own, "own"):
            return Routed(dst.tokens, dst.density, indices, zeros, zeros)
        gate = dst.gate * is_open
        update = F.linear(F.linear(dst.normalized, own.own.weight.float()), own.up.weight.float())
        return Routed(dst.tokens + gate[..., None] * update, dst.density, indices, zeros, gate)


ROUTERS: Mapping[str, type[TokenRouter]] = {
    "own-modality": OwnModalityRouter,
    "random-sources": RandomSourcesRouter,
    "no-look-up": NoLookUpRouter,
}
"""Routers of an arm's `control`, by name."""

_USED: Mapping[str, tuple[str, ...]] = {
    "own-modality": ("",),
    "random-sources": ("text.norm", "text.head", "text.own", "text.up", "image.down"),
    "no-look-up": ("text.norm", "text.head", "text.own", "text.up"),
}
"""How the names of the weights begin that a control computes with; the others are never trained, and are not counted."""


def become(router: Any, control: str) -> int:
    """Turn a token router into a control, in place, let the weights that it computes with learn, and count them.

    Args:
        router: With merge `concat` and direction `image-to-text`.
        control: A name of `ROUTERS`.
    """
    config = router.config
    if (config.merge, config.direction) != ("concat", "image-to-text"):
        raise DataError(
            f"a control is made of a router with merge concat and direction image-to-text, "
            f"not {config.merge} and {config.direction}"
        )
    router.__class__ = ROUTERS[control]
    router.fused = "off"  # the kernels look up as the router does
    for name, weight in router.named_parameters():
        weight.requires_grad_(name.startswith(_USED[control]))
    return sum(weight.numel() for weight in router.parameters() if weight.requires_grad)


def router_weights(config: RouterConfig, hidden: int, control: str | None = None) -> int:
    """Return how many weights a router computes with, as it is or as a control.

    Args:
        config: Settings of the router.
        hidden: Width D of the language model.
        control: A name of `ROUTERS`, or None.
    """
    with torch.device("meta"):
        router = TokenRouter(config, hidden)
    if control is not None:
        return become(router, control)
    return sum(weight.numel() for weight in router.parameters())


def equal_config(config: RouterConfig, hidden: int, control: str) -> RouterConfig:
    """Return the settings of a control whose rank brings its number of weights closest to the router's.

    Args:
        config: Settings of the router.
        hidden: Width D of the language model.
        control: A name of `ROUTERS`.
    """

    def sized(rank: int) -> RouterConfig:
        return config.model_copy(update={"rank": rank})

    first, second = (router_weights(sized(rank), hidden, control) for rank in (1, 2))
    further = (router_weights(config, hidden) - first) / (second - first)
    return sized(1 + max(0, round(further)))


def lora_ranks(model: Any, weights: int) -> dict[str, int]:
    """Return the rank of the adapters of every kind of projection, so that they have `weights` weights or just under.

    All linear layers of the language model get one rank. What is left goes to queries and values first, as the LoRA paper has
    it, then to the others by name.

    Args:
        model: The model without adapters.
        weights: How many there may be.

    Source: Hu et al. 2021 (arXiv 2106.09685), table 5.
    """
    cost: dict[str, int] = {}
    for path, module in model.get_decoder().named_modules():
        if isinstance(module, nn.Linear):
            name = path.rpartition(".")[2]
            cost[name] = cost.get(name, 0) + module.in_features + module.out_features
    base, left = divmod(weights, sum(cost.values()))
    ranks = dict.fromkeys(cost, base)
    first = [name for name in ("q_proj", "v_proj") if name in cost]
    for name in (*first, *sorted(set(cost) - set(first))):
        if cost[name] <= left:
            ranks[name] += 1
            left -= cost[name]
    return {name: rank for name, rank in ranks.items() if rank}
