"""The two branches of a vision-language model: the rows and the weights of its image tokens and of its text tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from moir_edge.errors import UnsupportedError
from moir_edge.router import Routing, last_routing
from moir_edge.router.attach import MODULE_NAME

__all__ = [
    "BRANCHES",
    "BranchRows",
    "Change",
    "branch_weights",
    "other_branch",
    "require_two_sides",
    "rows_of",
]

BRANCHES = ("image", "text")

Change: TypeAlias = "Callable[[Tensor, Mapping[str, Tensor]], Tensor]"
"""(routed `inputs_embeds` (batch, sequence, hidden), rows of each branch (batch, sequence) bool) -> what replaces them."""


def other_branch(branch: str) -> str:
    """Return the branch that this one is not."""
    (other,) = (name for name in BRANCHES if name != branch)
    return other


class BranchRows:
    """A forward pre-hook behind the router's, active in training mode only: the rows that the language model gets.

    The rows of a branch are those of its prompt tokens in the routed `inputs_embeds`. Answer, special and padding
    tokens belong to no branch. A prompt that is not routed has no rows and stays as it is.

    Args:
        model: A model with a router; the hook is attached to it until `detach`.

    Attributes:
        change: Replaces the rows in every training forward pass; None leaves them.
        handle: Of the hook.

    Raises:
        UnsupportedError: The model has no router.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        last_routing(model)  # refuses a model without router
        self.change: Change | None = None
        self._model = model
        decoder: Any = model.get_decoder()  # type: ignore[no-untyped-call]
        self.handle: RemovableHandle = decoder.register_forward_pre_hook(
            self._before_decoder, with_kwargs=True
        )

    def detach(self) -> None:
        """Take the hook off."""
        self.handle.remove()

    @contextmanager
    def changed(self, change: Change | None) -> Iterator[None]:
        """Replace the rows by another rule for the time of the block."""
        before, self.change = self.change, change
        try:
            yield
        finally:
            self.change = before

    @contextmanager
    def alone(self, branch: str) -> Iterator[None]:
        """Hide the other branch for the time of the block: its routed rows are zero.

        A modality alone is what its branch hands to the language model, all that the router brought in included.
        """
        hidden = other_branch(branch)
        with self.changed(lambda embeds, rows: embeds.masked_fill(rows[hidden][..., None], 0.0)):
            yield

    def _before_decoder(
        self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any] | None:
        routing = last_routing(self._model)
        embeds = kwargs.get("inputs_embeds")
        if not self._model.training or routing is None or self.change is None:
            return None
        if embeds is None:
            raise UnsupportedError(
                "balance method: the language model was called without inputs_embeds"
            )
        rows = {branch: rows_of(routing, branch, embeds) for branch in BRANCHES}
        return args, {**kwargs, "inputs_embeds": self.change(embeds, rows)}


def rows_of(routing: Routing, branch: str, embeds: Tensor) -> Tensor:
    """Return which rows of the sequence belong to a branch: (batch, sequence) bool.

    Args:
        routing: Of the forward pass.
        branch: `image` or `text`.
        embeds: (batch, sequence, hidden).
    """
    positions, valid = (
        (routing.image_positions, routing.image_positions >= 0)
        if branch == "image"
        else (routing.text_positions, routing.text_mask)
    )
    batch, length = embeds.shape[:2]
    spare = torch.where(valid, positions, length)
    rows = torch.zeros((batch, length + 1), dtype=torch.bool, device=embeds.device)
    return rows.scatter(1, spare, True)[:, :length]


def branch_weights(model: Any, method: str) -> dict[str, list[nn.Parameter]]:
    """Return the weights of each branch that require a gradient.

    Of the router, those are its weights for the branch's tokens: as scored, as source and as destination. Outside of
    it, all that makes image tokens is the image branch; embeddings that are not the output head's too are the text
    branch. The language model serves both, its adapters included, as the fusion does in the papers.

    Args:
        model: A model with a router; `requires_grad` says what is trained.
        method: Name of the method, for the message.

    Raises:
        UnsupportedError: A branch has none, so that there is nothing to balance.
    """
    found: dict[str, list[nn.Parameter]] = {branch: [] for branch in BRANCHES}
    head = _ids(model.get_output_embeddings())
    embeddings = _ids(model.get_input_embeddings()) - head
    shared = (_ids(model.get_decoder()) | head) - embeddings
    for name, weight in model.named_parameters():
        module, _, inner = name.partition(".")
        if not weight.requires_grad or id(weight) in shared:
            continue
        branch = "text" if id(weight) in embeddings else "image"
        if module == MODULE_NAME:
            branch = inner.partition(".")[0]
        if branch in found:  # weights of the router that serve both sides are shared
            found[branch].append(weight)
    if missing := [branch for branch, weights in found.items() if not weights]:
        raise UnsupportedError(
            f"`balance_method={method}` sets weights of image tokens against weights of text tokens, but none of "
            f"{missing[0]} tokens is trained; attach a router of direction 'both', or train `full`"
        )
    return found


def require_two_sides(model: Any, method: str) -> None:
    """Refuse a model of which one branch's rows alone get a gradient: a factor on it would be a learning rate.

    Args:
        model: A model with a router; `requires_grad` says what is trained.
        method: Name of the method, for the message.

    Raises:
        UnsupportedError: The router enriches one side, and nothing ahead of it is trained.
    """
    router = getattr(model, MODULE_NAME)
    ours = _ids(router) | _ids(model.get_decoder())
    ahead = any(weight.requires_grad for weight in model.parameters() if id(weight) not in ours)
    sides = router.config.enriched_sides
    if len(sides) < len(BRANCHES) and not ahead:
        raise UnsupportedError(
            f"`balance_method={method}` scales gradients of image rows against those of text rows, but the router's "
            f"direction {router.config.direction!r} changes {sides[0]} rows alone; attach a router of direction 'both', "
            "or train `full`"
        )


def _ids(module: nn.Module | None) -> set[int]:
    return set() if module is None else {id(weight) for weight in module.parameters()}
