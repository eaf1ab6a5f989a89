"""Prove that a model calls its router: one forward and one generated token, the router called once in each."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moir_edge.checked import a_model, checked
from moir_edge.errors import MoirEdgeError, UnsupportedError

__all__ = ["probe_router"]

_IMAGE_TOKENS = 4
_WORDS = 4
_ROUTER, _HOOKS = "moir_router", "_moir_hooks"


@checked(model=a_model)
def probe_router(model: Any, inputs: Mapping[str, Any] | None = None) -> None:
    """Run a forward and generate one token; refuse a model that does not call its router once in each.

    Weights, modes, caches and the random state are left as they were.

    Args:
        model: A model with a router, on a device that computes.
        inputs: What its processor makes of a picture and a prompt: then the image features must also stand in the
            embeddings that reach the router. None takes a prompt of a few placeholders and words without a picture,
            which costs no vision pass; classes that ask for a picture get a blank one.

    Raises:
        UnsupportedError: Names the class and what failed: forward, generate() or the place of the image features.
    """
    with _undisturbed(model):
        if inputs is not None:
            _probe(model, inputs)
            return
        try:
            _probe(model, _prompt(model, _IMAGE_TOKENS))
        except _FailedHalfError as first:
            blank = _prompt_with_picture(model)
            if blank is None:
                raise
            try:
                _probe(model, blank)
            except _FailedHalfError:
                raise first from None


class _FailedHalfError(UnsupportedError):
    """The model itself raised; its router may be called or not."""


def _probe(model: Any, inputs: Mapping[str, Any]) -> None:
    name = f"{type(model).__name__} (model type {model.config.model_type!r})"
    embeds = _calls(model, name, "forward", lambda: model(**inputs))
    if inputs.get("pixel_values") is not None:
        _check_features(model, name, inputs["input_ids"], embeds)
    with _plain_generation(model):
        _calls(model, name, "generate()", lambda: model.generate(**inputs, max_new_tokens=1))


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """Let `generate()` decode greedily, whatever the checkpoint's own generation config asks for."""
    from transformers import GenerationConfig

    own = model.generation_config
    ids = {key: value for key, value in own.to_dict().items() if key.endswith("_token_id")}
    plain: Any = GenerationConfig  # its signature is not typed
    model.generation_config = plain(**ids, do_sample=False)
    try:
        yield
    finally:
        model.generation_config = own


def _calls(model: Any, name: str, half: str, run: Callable[[], Any]) -> Tensor:
    """Run one half and return the embeddings (batch, sequence, hidden) that reached the router."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["inputs_embeds"])

    handle = getattr(model, _ROUTER).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run()
    except MoirEdgeError as error:
        raise UnsupportedError(f"{error} (found by {half} on a short prompt)") from error
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _FailedHalfError(
            f"router: {half} of {name} fails on a short prompt with an image token ({type(error).__name__}: {reason}), "
            "so it is unknown whether the class runs its router; if it does, pass probe=False"
        ) from error
    finally:
        handle.remove()
    if len(seen) != 1:
        times = f"calls the router {len(seen)} times" if seen else "never calls the router"
        raise UnsupportedError(
            f"router: {half} of {name} {times} on a prompt with an image, expected once; a router works on classes "
            "whose forward and generate() both pass inputs_embeds to get_decoder(), such as SmolVLM or LLaVA"
        )
    return seen[0]


def _check_features(model: Any, name: str, ids: Tensor, embeds: Tensor) -> None:
    """Refuse a model whose image features are not in the embeddings yet when the router is called."""
    image = ids == model.config.image_token_id
    placeholders = model.get_input_embeddings()(ids[image])
    if torch.equal(embeds[image], placeholders.to(embeds.dtype)):
        raise UnsupportedError(
            f"router: forward of {name} merges image features after the router, which would see only "
            "placeholders; use a class that merges them into inputs_embeds, such as SmolVLM or LLaVA"
        )


def _prompt(model: Any, image_tokens: int) -> dict[str, Tensor]:
    """Return ids and mask of one prompt: a word, image placeholders, words."""
    config, device = model.config, model.get_input_embeddings().weight.device
    taken = set(config.moir_router.get("special_token_ids", ())) | _ids_of(config.to_dict())
    size = model.get_input_embeddings().weight.shape[0]
    free = (index for index in range(size) if index not in taken)
    words = [next(free, 0) for _ in range(_WORDS)]
    ids = [words[0], *[int(config.image_token_id)] * image_tokens, *words[1:]]
    input_ids = torch.tensor([ids], device=device)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def _ids_of(record: Mapping[str, Any]) -> set[int]:
    """Return every token id that a config names, at any depth."""
    found: set[int] = set()
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= _ids_of(value)
        elif isinstance(value, int) and str(name).endswith(("token_id", "token_index")):
            found.add(value)
    return found


def _prompt_with_picture(model: Any) -> dict[str, Tensor] | None:
    """Return a prompt with one blank picture, for BLIP's kin, which cannot do without one; None for other classes.

    Its querying transformer gives as many image tokens as it has queries, and InstructBLIP's reads the prompt too.
    """
    config = model.config
    if not hasattr(config, "qformer_config"):
        return None
    weight = model.get_input_embeddings().weight
    size = int(config.vision_config.image_size)
    prompt = _prompt(model, int(config.num_query_tokens))
    pixels = torch.zeros(1, 3, size, size, dtype=weight.dtype, device=weight.device)
    given = {"pixel_values": pixels, "qformer_input_ids": prompt["input_ids"][:, -_WORDS:] * 0 + 1}
    return {**prompt, **{name: given[name] for name in given if _takes(model, name)}}


def _takes(model: Any, name: str) -> bool:
    return name in inspect.signature(model.forward).parameters


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Evaluate without gradients, warnings or draws from the random state; put back what a run leaves in the model."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity = logging.get_verbosity()
    before = {module: _public(module) for module in model.modules()}
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
            warnings.simplefilter("ignore")
            for module in before:
                module.training = False
            yield
    finally:
        logging.set_verbosity(verbosity)
        getattr(model, _HOOKS).last = None
        for module, attributes in before.items():
            # Qwen-VL keeps the positions of its last prompt, others a static cache.
            for name in set(_public(module)) - set(attributes):
                del module.__dict__[name]
            vars(module).update(attributes)


def _public(module: nn.Module) -> dict[str, Any]:
    """Return a module's plain attributes; private ones are the books of torch and transformers on their hooks."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}
