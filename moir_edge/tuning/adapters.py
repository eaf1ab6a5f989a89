"""Low-rank adapters on the language model for the time of the training (peft), merged into its weights at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from moir_edge.router.attach import MODULE_NAME

__all__ = ["SCALE", "Adapters", "frozen_statistics", "train_only"]

SCALE = 2.0
"""α/r: what the product of the two factors is multiplied by, whatever the rank."""

_MARK = ".lora_"


class Adapters:
    """Adapters of rank r on every linear layer of the language model: W x becomes W x + (α/r) B A x.

    These are the attention and MLP projections; embeddings, norms and the output projection get none. B is zero at
    first, so that the model's outputs stay as they are.

    Args:
        model: The whole model; its language model is changed in place, hooks on it keep working.
        rank: Rank r.
        seed: Of the initial A.
        ranks: Rank of the layers of every name, such as ``{"q_proj": 2}``, in place of `rank`; other layers get none.

    Source: Hu et al. 2021 (arXiv 2106.09685).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rank: int,
        seed: int,
        *,
        ranks: Mapping[str, int] | None = None,
    ) -> None:
        from peft import LoraConfig, LoraModel

        decoder: Any = model.get_decoder()  # type: ignore[no-untyped-call]
        config = LoraConfig(
            r=rank,
            lora_alpha=round(SCALE * rank),
            target_modules="all-linear" if ranks is None else list(ranks),
            rank_pattern=dict(ranks or {}),
            alpha_pattern={name: round(SCALE * one) for name, one in (ranks or {}).items()},
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._tuner = LoraModel(decoder, config, "default")

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Run the model without its adapters for the time of the block."""
        self._tuner.disable_adapter_layers()
        try:
            yield
        finally:
            self._tuner.enable_adapter_layers()

    def merge(self) -> None:
        """Add the products to the weights and take the adapters off: the model has its own modules again."""
        self._tuner.merge_and_unload()


def train_only(model: nn.Module, part: str) -> int:
    """Let a part of the weights require a gradient, and no other.

    Args:
        model: The model, with its adapters if `part` is `lora`.
        part: `router`, `lora` (adapters, and the router where there is one) or `full`.

    Returns:
        How many weights that are.
    """
    trained = 0
    for name, parameter in model.named_parameters():
        chosen = part == "full" or name.startswith(f"{MODULE_NAME}.") or _MARK in name
        parameter.requires_grad_(chosen)
        trained += parameter.numel() * chosen
    return trained


def frozen_statistics(model: nn.Module) -> list[nn.Module]:
    """Return the batch norms without a weight that requires a gradient.

    In training mode they would compute from the batch, and write its mean and variance into the checkpoint.
    """
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and not any(parameter.requires_grad for parameter in module.parameters())
    ]
