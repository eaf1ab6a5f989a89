"""Attach a router to a Hugging Face vision-language model through hooks, and save, load and inspect such a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from moir_edge.arguments import folder_or_id, integers, switch
from moir_edge.checked import a_model, checked, maybe
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.router.base import Router
from moir_edge.router.config import RouterConfig
from moir_edge.router.frame_tokens import frame_record
from moir_edge.router.hooks import Routing, RoutingHooks
from moir_edge.router.kinds import build_router
from moir_edge.router.probe import probe_router
from moir_edge.weights import (
    check_files,
    check_finite,
    check_known,
    generative_class,
    load_config,
    load_whole,
    resolve_checkpoint,
)

__all__ = [
    "Routing",
    "hooks_removed",
    "last_routing",
    "load_retrofitted",
    "remove_router",
    "retrofit",
    "router_disabled",
]

MODULE_NAME = "moir_router"
HOOKS_NAME = "_moir_hooks"


@checked(model=a_model, config=maybe(RouterConfig), special_token_ids=integers, probe=switch)
def retrofit(
    model: PreTrainedModel,
    config: RouterConfig | None = None,
    *,
    tokenizer: Any | None = None,
    special_token_ids: Iterable[int] | None = None,
    probe: bool = True,
) -> Router:
    """Attach a fresh router to `model`, in place.

    The outputs stay the same to the bit until the router is trained, but for `channel`, which as published starts by
    exchanging half of each weak channel.

    The router becomes the submodule `moir_router` (float32) and the config entry of that name, so that
    `save_pretrained` writes both; `load_retrofitted` reads them back. The model's class stays as it is.

    Args:
        model: A model whose config has an `image_token_id` and whose language model takes `inputs_embeds`.
        config: Settings of the router; None for the defaults.
        tokenizer: The model's tokenizer or processor: its marks never take part, nor do newlines between the tiles of
            a split image. None takes the tokenizer that lies beside the model's weights; nothing is downloaded for it.
            A model without one has the begin, end and padding ids of its config for marks, and no newlines.
        special_token_ids: Ids that never take part, in place of the tokenizer's.
        probe: Prove that the class calls the router, by one short forward and one generated token. False takes the class
            on trust; models on the meta device always are.

    Returns:
        The router, which is also `model.moir_router`.

    Raises:
        DataError: A weight of the model is NaN or infinite.
        UnsupportedError: The model is not a vision-language model, has a router already, or does not call it in
            forward or in generate(); the model is then as it was.
    """
    if isinstance(getattr(model, MODULE_NAME, None), Router):
        raise UnsupportedError(
            f"retrofit: this {type(model).__name__} has a router already; take a checkpoint without one, or call remove_router(model) first"
        )
    _image_token_id(model)
    check_finite(f"retrofit: this {type(model).__name__}", model)
    config = config or RouterConfig()
    record = {**config.to_record(), **frame_record(model, tokenizer, special_token_ids)}
    setattr(model.config, MODULE_NAME, record)
    router = _attach(model)
    router.to(_embedding_weight(model).device)
    router.train(model.training)
    if probe and not _embedding_weight(model).is_meta:
        try:
            probe_router(model)
        except BaseException:
            remove_router(model)
            raise
    return router


@checked(source=folder_or_id, probe=switch, mapped=switch)
def load_retrofitted(
    source: str | PathLike[str], *, probe: bool = True, mapped: bool = False, **kwargs: Any
) -> PreTrainedModel:
    """Load a checkpoint that was saved with a router; the model is in evaluation mode, as `from_pretrained` leaves it.

    Args:
        source: Folder, or id on the Hugging Face hub.
        probe: Prove that the class calls the router, as `retrofit` does.
        mapped: Leave the weights in the mapped file; where they lie at an odd address, a product differs in its last bits.
        **kwargs: Passed on to `from_pretrained`, e.g. `dtype` or `device_map`; the router stays float32.

    Raises:
        DataError: The checkpoint has no router, is not whole, or holds a weight that is not a finite number.
        UnsupportedError: The checkpoint is not a vision-language model, another tool quantized it, or its class does
            not call the router.
    """
    hub = {key: kwargs[key] for key in ("revision", "token", "cache_dir") if key in kwargs}
    folder = resolve_checkpoint(fspath(source), **hub)
    check_known(fspath(source), check_files(folder))
    config = kwargs.pop("config", None) or load_config(folder)
    if not isinstance(getattr(config, MODULE_NAME, None), dict):
        raise DataError(
            f"{source}: its config.json has no {MODULE_NAME!r} entry, so it holds no router; "
            "attach one with moir_edge.router.retrofit"
        )
    base = generative_class(config, fspath(source))
    model: PreTrainedModel = load_whole(_with_router(base), fspath(source), config=config, **kwargs)
    model.__class__ = base
    if not mapped:
        _realign(model)
    if probe and not _embedding_weight(model).is_meta:
        probe_router(model)
    return model


@checked(model=a_model)
def remove_router(model: PreTrainedModel) -> Router:
    """Take the router off: hooks, submodule and config entry; the model is the base model again.

    Returns:
        The router, with its weights.

    Raises:
        UnsupportedError: The model has no router.
    """
    hooks = _hooks(model)
    hooks.detach()
    router = hooks.router
    delattr(model, MODULE_NAME)
    delattr(model.config, MODULE_NAME)
    delattr(model, HOOKS_NAME)
    model._keep_in_fp32_modules_strict = {*(model._keep_in_fp32_modules_strict or ())} - {
        MODULE_NAME
    }
    return router


@checked(model=a_model)
@contextmanager
def hooks_removed(model: PreTrainedModel) -> Iterator[None]:
    """Take the hooks off for the time of the block, e.g. to trace a component; does nothing without a router."""
    hooks = getattr(model, HOOKS_NAME, None)
    if hooks is not None:
        hooks.detach()
    try:
        yield
    finally:
        if hooks is not None:
            hooks.attach()


@checked(model=a_model)
@contextmanager
def router_disabled(model: PreTrainedModel) -> Iterator[None]:
    """Run the base model for the time of the block: nothing is routed or recorded.

    Raises:
        UnsupportedError: The model has no router.
    """
    hooks = _hooks(model)
    before, hooks.enabled = hooks.enabled, False
    try:
        yield
    finally:
        hooks.enabled = before


@checked(model=a_model)
def last_routing(model: PreTrainedModel) -> Routing | None:
    """Return the routing of the last prefill, without autograd graph; None before the first, or if it had no image.

    Raises:
        UnsupportedError: The model has no router.
    """
    return _hooks(model).last


def _attach(model: PreTrainedModel) -> Router:
    """Create the submodule that the model's config describes and hook it in."""
    record = dict(getattr(model.config, MODULE_NAME))
    special_ids = _token_ids(record, "special_token_ids")
    # Absent from checkpoints that were retrofitted before newlines were left out: they keep their newlines.
    newline_ids = _token_ids(record, "newline_token_ids")
    router = build_router(RouterConfig.from_record(record), _embedding_weight(model).shape[1])
    model.add_module(MODULE_NAME, router)
    # Read by from_pretrained: the router keeps float32 whatever dtype is asked for.
    model._keep_in_fp32_modules_strict = {*(model._keep_in_fp32_modules_strict or ()), MODULE_NAME}
    hooks = RoutingHooks(
        router,
        model,
        _language_model(model),
        image_token_id=_image_token_id(model),
        special_ids=special_ids,
        newline_ids=newline_ids,
    )
    hooks.attach()
    setattr(model, HOOKS_NAME, hooks)
    return router


def _token_ids(record: dict[str, Any], key: str) -> list[int]:
    """Take the ids of frame tokens out of a router's record."""
    ids = record.pop(key, [])
    if not isinstance(ids, list) or not all(type(one) is int and one >= 0 for one in ids):
        raise DataError(
            f"router config: {key}: expected a list of token ids, got {ids!r:.60}; config.json was edited by hand"
        )
    return ids


def _with_router(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return a subclass whose constructor attaches the router, so that from_pretrained fills its weights too."""

    def build(self: PreTrainedModel, config: Any, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, config, *args, **kwargs)
        _attach(self)

    return type(base.__name__, (base,), {"__init__": build, "__module__": base.__module__})


def _realign(model: nn.Module) -> None:
    """Copy the weights out of the mapped file, where they lie at any byte offset.

    CPU kernels round differently on unaligned memory: without the copy, a reloaded model differs in the last bits.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def _hooks(model: PreTrainedModel) -> RoutingHooks:
    hooks = getattr(model, HOOKS_NAME, None)
    if not isinstance(hooks, RoutingHooks):
        raise UnsupportedError(
            f"this {type(model).__name__} has no router; attach one with moir_edge.router.retrofit "
            "or load a retrofitted checkpoint with load_retrofitted"
        )
    return hooks


def _image_token_id(model: PreTrainedModel) -> int:
    value = getattr(model.config, "image_token_id", None)
    if value is None or _language_model(model) is model:
        raise UnsupportedError(
            f"{type(model).__name__} (model type {model.config.model_type!r}) has no image_token_id or no language "
            "model inside; a router needs a vision-language model such as SmolVLM or LLaVA"
        )
    return int(value)


def _language_model(model: Any) -> nn.Module:
    decoder: nn.Module = model.get_decoder()
    return decoder


def _embedding_weight(model: Any) -> Tensor:
    """Return the token embedding, (vocabulary, hidden)."""
    weight: Tensor = model.get_input_embeddings().weight
    return weight
