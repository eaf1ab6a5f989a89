"""The table of families, by Hugging Face `model_type`."""

from __future__ import annotations

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import UnsupportedError, closest
from moir_edge.runtime.families.base import Family

__all__ = ["families", "family_class", "family_of", "register"]

_FAMILIES: dict[str, type[Family]] = {}


def register(family: type[Family]) -> type[Family]:
    """Put a family in the table under each of its model types; use it as a class decorator.

    Raises:
        ValueError: A model type is taken.
    """
    for model_type in family.model_types:
        if model_type in _FAMILIES:
            raise ValueError(f"model_type {model_type!r} is registered already")
        _FAMILIES[model_type] = family
    return family


def families() -> tuple[str, ...]:
    """Return every known `model_type`, sorted."""
    return tuple(sorted(_FAMILIES))


def family_of(facts: ModelFacts) -> Family:
    """Return what the host computes for a model.

    Raises:
        UnsupportedError: The model type is unknown.
        BundleError: The family's settings in the manifest cannot hold.
    """
    return family_class(facts.model_type)(facts)


def family_class(model_type: str) -> type[Family]:
    """Return the class of a model type.

    Raises:
        UnsupportedError: The model type is unknown.
    """
    if model_type not in _FAMILIES:
        raise UnsupportedError(
            f"no prompt layout for model type {model_type!r}; {closest(model_type, _FAMILIES)}"
        )
    return _FAMILIES[model_type]
