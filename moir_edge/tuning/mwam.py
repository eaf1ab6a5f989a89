"""MWAM on a retrofitted model: image and text tokens are the two branches, measured as the language model gets them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moir_edge.arguments import text
from moir_edge.checked import a_model, checked, required
from moir_edge.errors import UnsupportedError
from moir_edge.router import Routing, last_routing
from moir_edge.router.steps import read_rows
from moir_edge.tuning.balance import BranchBalance, Mode, check_mode, scale_gradient
from moir_edge.tuning.frequency import frequency_ratio
from moir_edge.tuning.loss import answer_loss

__all__ = ["BRANCHES", "Mwam"]

BRANCHES = ("image", "text")


class Mwam:
    """A forward pre-hook behind the router's, active in training mode only; it has no parameters.

    The features of a branch are its rows of the routed `inputs_embeds`. Their FRM is that of the plane tokens × channels of
    every sample. In the modes `gradient` and `hybrid`, the gradient of these rows is multiplied by K of their
    branch; answer, special and padding tokens belong to no branch and keep theirs. In `loss` and `hybrid`, the caller
    adds `auxiliary_loss`.

    Args:
        model: A model with a router; the hook is attached to it until `detach`.
        mode: What K scales.

    Raises:
        UnsupportedError: The model has no router, or the mode is unknown.
    """

    @checked(model=a_model, mode=required(text))
    def __init__(self, model: PreTrainedModel, mode: Mode) -> None:
        check_mode(mode)
        last_routing(model)  # refuses a model without router
        self.mode = mode
        self.balance = BranchBalance()
        self._model = model
        self._only: str | None = None
        decoder: Any = model.get_decoder()  # type: ignore[no-untyped-call]
        self._handle = decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)

    def detach(self) -> None:
        """Take the hook off."""
        self._handle.remove()

    def record(self) -> dict[str, float]:
        """Return F̂ and K of both branches as `frm_image`, `frm_text`, `k_image`, `k_text`; empty before a step."""
        frm = {f"frm_{name}": value for name, value in self.balance.running.items()}
        return frm | {f"k_{name}": value for name, value in self.balance.weights.items()}

    def auxiliary_loss(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return Σ_m K_m · L_m, L_m being the task loss with the other branch's routed rows set to zero.

        Two more forward passes; call it after the forward pass of the step, which sets K.

        Args:
            inputs: What the model was called with, labels included.
        """
        weights = self.balance.weights
        losses = []
        for branch in BRANCHES:
            with self._alone(branch):
                logits = self._model(**inputs, use_cache=False).logits
                losses.append(weights.get(branch, 1.0) * answer_loss(logits, inputs["labels"]))
        return torch.stack(losses).sum()

    @contextmanager
    def _alone(self, branch: str) -> Iterator[None]:
        self._only = branch
        try:
            yield
        finally:
            self._only = None

    def _before_decoder(
        self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any] | None:
        routing = last_routing(self._model)
        embeds = kwargs.get("inputs_embeds")
        if not self._model.training or routing is None:
            return None
        if embeds is None:
            raise UnsupportedError("MWAM: the language model was called without inputs_embeds")
        if self._only is not None:
            (other,) = (name for name in BRANCHES if name != self._only)
            hidden = _rows_of(routing, other, embeds)[..., None]
            return args, {**kwargs, "inputs_embeds": embeds.masked_fill(hidden, 0.0)}
        self._weigh(routing, embeds)
        return None

    def _weigh(self, routing: Routing, embeds: Tensor) -> None:
        """Update F̂ and, if the mode says so, scale the gradients of both branches."""
        sides = {
            "image": (routing.image_positions, routing.image_positions >= 0),
            "text": (routing.text_positions, routing.text_mask),
        }
        if not all(bool(valid.any()) for _, valid in sides.values()):
            return
        ratios = {
            name: float(frequency_ratio(read_rows(embeds.detach(), positions, valid), valid))
            for name, (positions, valid) in sides.items()
        }
        weights = self.balance.update(ratios)
        if self.mode == "loss" or not weights:
            return
        factor = embeds.new_ones(embeds.shape[:2])
        for name in BRANCHES:
            factor = factor.masked_fill(_rows_of(routing, name, embeds), weights[name])
        scale_gradient(embeds, factor[..., None])


def _rows_of(routing: Routing, branch: str, embeds: Tensor) -> Tensor:
    """Return which rows of the sequence belong to a branch: (batch, sequence) bool."""
    positions, valid = (
        (routing.image_positions, routing.image_positions >= 0)
        if branch == "image"
        else (routing.text_positions, routing.text_mask)
    )
    batch, length = embeds.shape[:2]
    spare = torch.where(valid, positions, length)
    rows = torch.zeros((batch, length + 1), dtype=torch.bool, device=embeds.device)
    return rows.scatter(1, spare, True)[:, :length]
