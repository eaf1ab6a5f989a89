"""The key/value cache of a Hugging Face model, by the name that the installed transformers gives it.

transformers 5.24 renamed the argument and the output `past_key_values` to `cache`. The old name still works there, with
a FutureWarning, until 5.40. Every place that passes, receives or reads the cache goes through this module.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

__all__ = ["cache_keyword", "cached_tokens", "given_cache", "returned_cache"]

# The name since transformers 5.24 first.
_NAMES = ("cache", "past_key_values")


def cache_keyword(model: Any) -> str:
    """Return the keyword under which a model's forward takes the cache.

    Args:
        model: A module. Code that comes with a checkpoint may keep the old name under a new transformers.
    """
    known = inspect.signature(model.forward).parameters
    return next((name for name in _NAMES if name in known), _installed_name())


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """Return the cache among the arguments of a forward, or None.

    Args:
        arguments: Argument name to value, as the caller gave them: under either name.
    """
    return next((arguments[name] for name in _NAMES if arguments.get(name) is not None), None)


def cached_tokens(arguments: Mapping[str, Any]) -> int:
    """Return how many tokens the cache among the arguments of a forward holds; 0 without a cache."""
    cache = given_cache(arguments)
    return 0 if cache is None else int(cache.get_seq_length())


def returned_cache(outputs: Any) -> Any:
    """Return the cache in a model's output, or None where the model returned none.

    Args:
        outputs: A `transformers.utils.ModelOutput`; its old name is not asked for where it has the new one.
    """
    names = {field.name for field in fields(outputs)}
    return next((getattr(outputs, name) for name in _NAMES if name in names), None)


def _installed_name() -> str:
    from transformers.modeling_outputs import BaseModelOutputWithPast

    names = {field.name for field in fields(BaseModelOutputWithPast)}
    return next(name for name in _NAMES if name in names)
