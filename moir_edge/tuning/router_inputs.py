"""The arguments of a model's router, embeddings and positions of a batch, without running the language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moir_edge.errors import UnsupportedError
from moir_edge.router.attach import MODULE_NAME

__all__ = ["RouterInputs", "router_inputs"]


class RouterInputs(NamedTuple):
    """The router's arguments for a batch.

    Attributes:
        inputs_embeds: (batch, sequence, hidden), without autograd graph.
        image_positions: (batch, image_tokens) int64, -1 where a sample has fewer.
        text_positions: (batch, text_tokens) int64.
        text_mask: (batch, text_tokens) bool.
    """

    inputs_embeds: Tensor
    image_positions: Tensor
    text_positions: Tensor
    text_mask: Tensor


class _Reached(Exception):  # noqa: N818  (a way out, not an error)
    """Carries the router's arguments out of a forward pass, whose rest is left undone."""

    def __init__(self, inputs: RouterInputs) -> None:
        super().__init__("the router was reached")
        self.inputs = inputs


def router_inputs(model: Any, inputs: Mapping[str, Tensor]) -> RouterInputs:
    """Run a model up to its router, without gradients.

    The vision tower and the embedding run; the language model, which takes most of the time, does not.

    Args:
        model: A model with a router.
        inputs: What the model is called with, labels included; each row has an image and a word.

    Raises:
        UnsupportedError: The forward pass ended without calling the router.
    """

    def leave(_: Any, args: tuple[Any, ...]) -> None:
        raise _Reached(RouterInputs(*args))

    handle = getattr(model, MODULE_NAME).register_forward_pre_hook(leave)
    try:
        with torch.no_grad():
            model(**inputs, use_cache=False)
    except _Reached as reached:
        return reached.inputs
    finally:
        handle.remove()
    raise UnsupportedError(
        "the model answered without its router: the prompt holds no image token, or the router is disabled"
    )
