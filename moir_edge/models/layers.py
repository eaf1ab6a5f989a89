"""Layers of a language model: what each may look at, and by which rotary embedding it tells positions apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moir_edge.errors import UnsupportedError

__all__ = [
    "FULL",
    "ROTARY",
    "SLIDING",
    "check_layers",
    "layer_kinds",
    "layer_windows",
    "rotary_types",
]

FULL, SLIDING = "full_attention", "sliding_attention"
# Rotary embeddings whose angles follow from the position alone; "dynamic" and "longrope" take the longest position so far.
ROTARY = ("default", "linear", "llama3", "yarn")


def layer_kinds(config: Any) -> tuple[str, ...]:
    """Return the kinds of attention of a language model's layers, sorted, each once.

    Args:
        config: The config of the language model.

    Raises:
        UnsupportedError: A layer looks at something else than the tokens before it, all of them or the last few.
    """
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    kinds = set(getattr(config, "layer_types", None) or [FULL if window is None else SLIDING])
    name = f"the language model {config.model_type!r}"
    if not kinds <= {FULL, SLIDING}:
        raise UnsupportedError(
            f"{name} has layers of {', '.join(sorted(kinds))} (layer_types in config.json); "
            f"export supports {FULL} and {SLIDING}"
        )
    if SLIDING in kinds and (not isinstance(window, int) or window < 1):
        raise UnsupportedError(
            f"{name} has layers of {SLIDING} and sliding_window {window!r}; correct it in config.json to a number of tokens"
        )
    return tuple(sorted(kinds))


def layer_windows(config: Any) -> tuple[int, ...]:
    """Return how many tokens each layer looks back, itself included; 0 where it sees all.

    Args:
        config: The config of the language model.

    Raises:
        UnsupportedError: See `layer_kinds`.
    """
    kinds = layer_kinds(config)
    types = getattr(config, "layer_types", None) or kinds * config.num_hidden_layers
    return tuple(int(config.sliding_window) if one == SLIDING else 0 for one in types)


def rotary_types(config: Any) -> tuple[str, ...]:
    """Return the kinds of rotary embedding of a language model, sorted; some models have one for each kind of layer.

    Args:
        config: The config of the language model.
    """
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [value for value in found.values() if isinstance(value, Mapping)]
    return tuple(
        sorted(
            {str(one.get("rope_type") or one.get("type") or "default") for one in nested or [found]}
        )
    )


def check_layers(name: str, config: Any, *, bidirectional_prompt: bool = False) -> None:
    """Refuse a language model whose layers the exporter would trace into a wrong graph.

    Args:
        name: How messages call the checkpoint.
        config: The config of the language model.
        bidirectional_prompt: Whether the graph sees prompts from both sides anyway, as the config may ask for.

    Raises:
        UnsupportedError: A kind of attention or rotary embedding is not covered.
    """
    try:
        layer_kinds(config)
    except UnsupportedError as error:
        raise UnsupportedError(f"{name}: {error}; retrofit and tune accept it") from None
    both = getattr(config, "use_bidirectional_attention", False) and not bidirectional_prompt
    if both or not getattr(config, "is_causal", True):
        raise UnsupportedError(
            f"{name}: the language model {config.model_type!r} looks at later tokens too (use_bidirectional_attention or "
            "is_causal in config.json); export supports language models that generate from left to right; "
            "retrofit and tune accept it"
        )
    for rotary in rotary_types(config):
        if rotary not in ROTARY:
            raise UnsupportedError(
                f"{name}: the rotary embedding {rotary!r} (rope_parameters in config.json) is not supported by "
                f"export (supported: {', '.join(ROTARY)}); retrofit and tune accept it"
            )
