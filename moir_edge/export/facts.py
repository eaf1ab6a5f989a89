"""Read the facts of a model that the runtime needs from its configs and tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moir_edge.bundle import ModelFacts
from moir_edge.checkpoint.padding import end_ids, padding_id
from moir_edge.router.frame_tokens import newline_token_ids, special_token_ids
from moir_edge.runtime.generation_config import GenerationRules

if TYPE_CHECKING:
    from moir_edge.checkpoint import Checkpoint

__all__ = ["model_facts"]


def model_facts(checkpoint: Checkpoint) -> ModelFacts:
    """Gather the facts for `manifest.model`.

    Raises:
        DataError: Neither the generation config, the model nor the tokenizer names an end-of-text token, or a value of the
            generation config cannot hold.
    """
    config, architecture = checkpoint.config, checkpoint.architecture
    GenerationRules.of(checkpoint.model.generation_config.to_dict())  # refused before the long work
    text = architecture.text_config(config)
    heads, grid = text.num_attention_heads, architecture.image_grid(config)
    return ModelFacts(
        model_type=config.model_type,
        hidden_size=text.hidden_size,
        num_layers=text.num_hidden_layers,
        num_kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocab_size=checkpoint.model.get_submodule(architecture.lm_head).weight.shape[0],
        context_length=text.max_position_embeddings,
        image_token_id=architecture.image_token_id(config),
        eos_token_ids=end_ids(checkpoint.model, checkpoint.tokenizer),
        pad_token_id=padding_id(checkpoint.model, checkpoint.tokenizer),
        special_token_ids=_frame_ids(checkpoint, "special_token_ids", special_token_ids),
        newline_token_ids=_frame_ids(checkpoint, "newline_token_ids", newline_token_ids),
        image_size=architecture.image_size(config),
        tokens_per_tile=None if grid is None else grid.tokens,
        image_grid=grid,
        family=architecture.family_facts(config),
    )


def _frame_ids(
    checkpoint: Checkpoint, name: str, of_tokenizer: Callable[[Any], tuple[int, ...]]
) -> tuple[int, ...]:
    """Return ids that stand for the prompt's frame: those the router was tuned with, else the tokenizer's."""
    attached = getattr(checkpoint.config, "moir_router", None)
    if attached is not None and attached.get("special_token_ids") is not None:
        return tuple(sorted(int(token) for token in attached.get(name) or ()))
    return of_tokenizer(checkpoint.tokenizer)
