"""The forward hooks that put a router in front of a language model's prefill, without touching the model's class."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moir_edge.errors import DataError, UnsupportedError
from moir_edge.router.base import Router, RouterOutput
from moir_edge.router.positions import prompt_positions
from moir_edge.transformers_cache import cached_tokens

__all__ = ["Routing", "RoutingHooks"]


@dataclass(frozen=True)
class Routing:
    """Router outputs of one prefill.

    Attributes:
        output: The router's result; its first `image_tokens` entries are image tokens.
        image_positions: (batch, image_tokens) int64, -1 where a sample has fewer.
        text_positions: (batch, text_tokens) int64, 0 where `text_mask` is False.
        text_mask: (batch, text_tokens) bool.
    """

    output: RouterOutput
    image_positions: Tensor
    text_positions: Tensor
    text_mask: Tensor


class RoutingHooks:
    """Two pre-hooks: one on the whole model reads the token ids, one on its language model rewrites `inputs_embeds`.

    Only prefills are routed, and only those that hold an image token and a text token. Answer tokens (labels other
    than -100) are neither sources nor targets. With `use_cache=False`, generate() makes a prefill of every step, which
    takes the tokens generated so far for part of the prompt.

    Args:
        router: The router to apply.
        model: The whole model, called with `input_ids`, `attention_mask`, `labels`.
        language_model: The part of it that is called with `inputs_embeds`.
        image_token_id: The id that stands where an image feature goes.
        special_ids: Ids of text tokens that never take part.
        newline_ids: Ids of newline tokens, which take no part between two image tokens.
    """

    def __init__(
        self,
        router: Router,
        model: nn.Module,
        language_model: nn.Module,
        *,
        image_token_id: int,
        special_ids: Iterable[int],
        newline_ids: Iterable[int] = (),
    ) -> None:
        self.router = router
        self.enabled = True
        self.last: Routing | None = None
        self._model = model
        self._language_model = language_model
        self._image_token_id = image_token_id
        self._special_ids = tuple(special_ids)
        self._newline_ids = tuple(newline_ids)
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None
        self._handles: list[Any] = []

    def attach(self) -> None:
        """Put the hooks on; does nothing where they are on."""
        if self._handles:
            return
        self._handles = [
            self._model.register_forward_pre_hook(self._before_model, with_kwargs=True),
            self._language_model.register_forward_pre_hook(
                self._before_language_model, with_kwargs=True
            ),
            self._model.register_forward_hook(self._after_model, always_call=True),
        ]

    def detach(self) -> None:
        """Take the hooks off; does nothing where they are off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before_model(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._pending = None
        if not self.enabled:
            return
        given = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
        given = {**given, **given.get("kwargs", {})}
        if _is_first_forward(given):
            self.last = None
            self._pending = self._positions(given)

    def _before_language_model(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any] | None:
        if self._pending is None:
            return None
        image, text, mask = self._pending
        if kwargs.get("inputs_embeds") is None:
            raise UnsupportedError(
                f"router: {type(self._model).__name__} calls its language model without inputs_embeds, so there is "
                "nothing to route; moir-edge handles models that merge image features into the embeddings"
            )
        self._pending = None
        output = self.router(kwargs["inputs_embeds"], image, text, mask)
        self.last = Routing(output.detached(), image, text, mask)
        return args, {**kwargs, "inputs_embeds": output.inputs_embeds}

    def _after_model(self, *_: Any) -> None:
        self._pending = None

    def _positions(self, given: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return image_positions, text_positions, text_mask of the prompt; None if it holds no image token."""
        ids = given.get("input_ids")
        if ids is None:
            if _has_images(given):
                raise UnsupportedError(
                    "router: got images with inputs_embeds and no input_ids, so image and text tokens cannot be told "
                    "apart; pass input_ids, or wrap the call in router_disabled(model)"
                )
            return None
        if not (ids == self._image_token_id).any():
            return None
        labels = given.get("labels")
        if labels is None and self.router.training:
            raise DataError(
                "router: a training forward without labels would route the answer tokens and leak them; pass labels "
                "with -100 on the prompt, or call model.eval()"
            )
        found = prompt_positions(
            ids.cpu(),
            _padding(given.get("attention_mask"), ids).cpu(),
            self._image_token_id,
            self._special_ids,
            self._newline_ids,
            answers=None if labels is None else (labels != -100).cpu(),
        )
        image_positions, text_positions, mask = (
            torch.from_numpy(part).to(ids.device) for part in found
        )
        return image_positions, text_positions, mask


def _is_first_forward(given: dict[str, Any]) -> bool:
    """Return whether this forward is the prefill; a prompt with images that comes in pieces is refused."""
    cached = cached_tokens(given)
    if cached == 0:
        return True
    if _has_images(given):
        raise UnsupportedError(
            f"router: got images after {cached} cached tokens, but a prompt is routed as a whole; "
            "pass it in one forward (prefill_chunk_size=None), or wrap the call in router_disabled(model)"
        )
    return False


def _has_images(given: dict[str, Any]) -> bool:
    encoded = given.get("mm_encoder_outputs")
    has_encoded = bool(encoded.get("image")) if isinstance(encoded, dict) else encoded is not None
    return has_encoded or given.get("pixel_values") is not None


def _padding(mask: Tensor | None, ids: Tensor) -> Tensor:
    """Return which tokens are not padding, (batch, sequence) bool, from a 2-D or expanded 4-D attention mask."""
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    length = ids.shape[1]
    if mask.ndim == 4:
        # generate() with a static cache expands the mask; its last query sees every token that is no padding.
        last = mask[:, 0, -1, :length]
        return last if last.dtype == torch.bool else last == 0
    return mask[:, :length] != 0
