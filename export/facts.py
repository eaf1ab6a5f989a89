"""What the runtime must know of a model, read from its configs and tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from moir_edge.bundle import ModelFacts
from moir_edge.errors import DataError
from moir_edge.models import Architecture
from moir_edge.router.frame_tokens import newline_token_ids, special_token_ids
from moir_edge.runtime.generation_config import GenerationRules

__all__ = ["Described", "end_token_ids", "model_facts"]


class Described(Protocol):
    """What the facts are read from; a `Checkpoint` is one."""

    @property
    def name(self) -> str:
        """How messages call it."""

    @property
    def config(self) -> Any:
        """The Hugging Face config."""

    @property
    def model(self) -> Any:
        """The Hugging Face model."""

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""

    @property
    def architecture(self) -> Architecture:
        """The facts of its `model_type`."""


def model_facts(checkpoint: Described) -> ModelFacts:
    """Gather the facts for `manifest.model`.

    Raises:
        DataError: Neither the generation config, the model nor the tokenizer names an end-of-text token, or a value of the
            generation config cannot hold.
    """
    config, architecture = checkpoint.config, checkpoint.architecture
    GenerationRules.of(checkpoint.model.generation_config.to_dict())  # refused before the long work
    text = architecture.text_config(config)
    heads = text.num_attention_heads
    eos = _eos_token_ids(checkpoint)
    return ModelFacts(
        model_type=config.model_type,
        hidden_size=text.hidden_size,
        num_layers=text.num_hidden_layers,
        num_kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocab_size=checkpoint.model.get_submodule(architecture.lm_head).weight.shape[0],
        context_length=text.max_position_embeddings,
        image_token_id=architecture.image_token_id(config),
        eos_token_ids=eos,
        pad_token_id=_pad_token_id(checkpoint, eos),
        special_token_ids=_frame_ids(checkpoint, "special_token_ids", special_token_ids),
        newline_token_ids=_frame_ids(checkpoint, "newline_token_ids", newline_token_ids),
        image_size=architecture.image_size(config),
        tokens_per_tile=architecture.tokens_per_tile(config),
        image_grid=architecture.image_grid(config),
    )


def _sources(checkpoint: Described) -> tuple[Any, ...]:
    """Return where token ids may stand, the most binding first."""
    text = checkpoint.architecture.text_config(checkpoint.config)
    return (checkpoint.model.generation_config, checkpoint.config, text, checkpoint.tokenizer)


def end_token_ids(sources: Iterable[Any]) -> tuple[int, ...]:
    """Return the ids that end an answer, by the first source that names any.

    Args:
        sources: Objects that may have an `eos_token_id`: generation config, model config, tokenizer; the most binding first.
    """
    for source in sources:
        found = getattr(source, "eos_token_id", None)
        if found is not None:
            ids: Iterable[int] = [found] if isinstance(found, int) else found
            return tuple(int(token) for token in ids)
    return ()


def _eos_token_ids(checkpoint: Described) -> tuple[int, ...]:
    found = end_token_ids(_sources(checkpoint))
    if not found:
        raise DataError(
            f"{checkpoint.name} names no eos_token_id, so generation could never stop; "
            "set it in generation_config.json"
        )
    return found


def _pad_token_id(checkpoint: Described, eos: tuple[int, ...]) -> int:
    for source in _sources(checkpoint):
        found = getattr(source, "pad_token_id", None)
        if isinstance(found, int) and found >= 0:
            return found
    # Padding is masked, so any valid id serves.
    return eos[0]


def _frame_ids(
    checkpoint: Described, name: str, of_tokenizer: Callable[[Any], tuple[int, ...]]
) -> tuple[int, ...]:
    """Return ids that stand for the prompt's frame: those the router was tuned with, else the tokenizer's."""
    attached = getattr(checkpoint.config, "moir_router", None)
    if attached is not None and attached.get("special_token_ids") is not None:
        return tuple(sorted(int(token) for token in attached.get(name) or ()))
    return of_tokenizer(checkpoint.tokenizer)
